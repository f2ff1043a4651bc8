//! The page at `/`: one document, embedded, that loads nothing from anywhere.
use axum::{
    http::{HeaderValue, header},
    response::Response,
};
use std::{path::Path, sync::LazyLock};

const HTML: &str = include_str!("ui/index.html");
const CSS: &str = include_str!("ui/app.css");
const JS: &str = include_str!("ui/app.js");

/// Instead of the embedded files: those of a folder, read each time, for whoever works on the page.
const FOLDER: &str = "RAM_RUN_UI_DIR";

/// The document, and what the browser may do with it.
struct Page {
    html: String,
    policy: String,
}

impl Page {
    fn of(html: &str, css: &str, js: &str) -> Page {
        let html = html.replace("/*STYLE*/", css).replace("/*SCRIPT*/", js);
        let sum = |text: &str| base64(&crate::access::digest(text));
        // Only this style and this script, only to this server: what a model says can do nothing.
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            sum(js),
            sum(css)
        );
        Page { html, policy }
    }

    fn response(&self) -> Response {
        let mut response = Response::new(self.html.clone().into());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if let Ok(policy) = HeaderValue::from_str(&self.policy) {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        response
    }
}

/// The page.
pub async fn page() -> Response {
    static EMBEDDED: LazyLock<Page> = LazyLock::new(|| Page::of(HTML, CSS, JS));
    let read = |folder: &Path, name: &str| std::fs::read_to_string(folder.join(name));
    let own = std::env::var_os(FOLDER).and_then(|folder| {
        let folder = Path::new(&folder);
        Some(Page::of(&read(folder, "index.html").ok()?, &read(folder, "app.css").ok()?, &read(folder, "app.js").ok()?))
    });
    own.as_ref().unwrap_or(&EMBEDDED).response()
}

/// As RFC 4648 has it, of 32 bytes.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        let letter = |n: usize| char::from(LETTERS[word as usize >> (18 - 6 * n) & 63]);
        (0..4).for_each(|n| out.push(if n <= three.len() { letter(n) } else { '=' }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_written_as_browsers_read_them() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn the_page_is_small_and_asks_nobody_else() {
        let page = Page::of(HTML, CSS, JS);
        assert!(page.html.len() <= 61_440, "{} bytes", page.html.len());
        for word in ["http://", "https://", "innerHTML", "eval("] {
            let found: Vec<&str> = page.html.lines().filter(|line| line.contains(word) && !line.contains("www.w3.org")).collect();
            assert!(found.is_empty(), "{word}: {found:?}");
        }
    }
}
