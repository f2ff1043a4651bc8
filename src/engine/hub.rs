//! Checkpoints from the Hugging Face hub: settings of the environment, and the folders and names that a model goes by.
//!
//! The crate hf-hub knows the cache's names and the token; transfers are made here with ureq, because hf-hub's do not go on
//! after an interruption of a finished part, check neither size nor sha256, and hide what the hub says when it refuses.
mod cache;
mod download;
mod forget;
mod http;
mod names;
mod remote;
mod snapshot;

pub use forget::Fetched;
pub use names::{Place, place};
pub use remote::Remote;
pub use snapshot::Snapshot;

use crate::{Error, error::Setting};
use hf_hub::{Cache, Repo, RepoType};
use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};
use url::Url;

/// Told the name of a file, and how many bytes of how many are there.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);

/// A repository at a revision.
#[derive(Clone, Debug)]
pub struct Repository {
    /// ORG/NAME.
    pub id: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// Whether it holds a data set and no model.
    pub dataset: bool,
}

impl Repository {
    /// Its folder in the cache.
    fn folder_name(&self) -> String {
        let kind = if self.dataset { RepoType::Dataset } else { RepoType::Model };
        Repo::new(self.id.clone(), kind).folder_name()
    }

    /// Its path below an endpoint.
    fn path(&self) -> String {
        if self.dataset { format!("datasets/{}", self.id) } else { self.id.clone() }
    }
}

/// The hub as the environment describes it.
#[derive(Clone)]
pub struct Hub {
    endpoint: Url,
    cache: PathBuf,
    token: Option<String>,
    /// Where a token was looked for, and whether it was there.
    looked: String,
    offline: bool,
    agent: ureq::Agent,
}

impl Hub {
    /// Reads `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, the token file, `HF_ENDPOINT` and `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`Error::Setting`] where neither the environment nor the system names a folder for the cache, or the endpoint is no address.
    pub fn from_env(offline: bool) -> Result<Hub, Error> {
        let cache = match set("HF_HOME") {
            Some(home) => Cache::new(Path::new(&home).join("hub")),
            // hf-hub panics where there is no home.
            None if env::home_dir().is_none() => {
                return Err(Error::setting(Setting::HubCache, "is not set", "and there is no home folder: set HF_HOME to a folder"));
            }
            None => Cache::default(),
        };
        let file = set("HF_TOKEN_PATH").map_or_else(|| cache.token_path(), PathBuf::from);
        let own = set("HF_TOKEN").map(|t| t.trim().to_string());
        let kept = fs::read_to_string(&file).ok().map(|t| t.trim().to_string()).filter(|t| !t.is_empty());
        let state = |found: bool| if found { "found" } else { "not found" };
        let looked = format!("HF_TOKEN {}, {} {}", state(own.is_some()), file.display(), state(kept.is_some()));
        let yes = |name: &str| set(name).is_some_and(|v| ["1", "true", "yes", "on"].contains(&v.to_ascii_lowercase().as_str()));
        // Redirects are followed here: the first answer has the headers, and a token must not go to another host.
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .max_idle_connections(CONNECTIONS)
            .max_idle_connections_per_host(CONNECTIONS)
            .accept_encoding("identity")
            .user_agent(concat!("ram-run/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Hub {
            endpoint: endpoint()?,
            cache: set("HF_HUB_CACHE").map_or_else(|| cache.path().clone(), PathBuf::from),
            token: own.or(kept),
            looked,
            offline: offline || yes("HF_HUB_OFFLINE"),
            agent: agent.into(),
        })
    }
}

impl Hub {
    /// Where a token was looked for, and whether it was there.
    pub fn looked(&self) -> &str {
        &self.looked
    }

    /// The folder of the cache that is shared with other tools, and the bytes of what is fetched there.
    pub fn cached(&self) -> (&Path, u64) {
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
        let blobs = entries(&self.cache).into_iter().flat_map(|repository| entries(&repository.join("blobs")));
        (&self.cache, blobs.filter_map(|path| path.metadata().ok()).map(|m| m.len()).sum())
    }
}

// Whoever prints this must not print the token.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Hub({}, {})", self.endpoint.origin().ascii_serialization(), self.cache.display())
    }
}

/// A variable of the environment that is set to something.
fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|v| !v.trim().is_empty())
}

/// Where the hub is.
fn endpoint() -> Result<Url, Error> {
    let text = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
    let url = Url::parse(text.trim()).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
    url.ok_or_else(|| Error::setting(Setting::HubEndpoint, text, "give an address like https://huggingface.co"))
}

/// Connections that are kept open, for the many short reads of a plan.
const CONNECTIONS: usize = 64;
