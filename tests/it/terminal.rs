//! The program in a terminal of its own, as a person sees it.
use nix::pty::openpty;
use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

/// A pseudo-terminal and the program in it.
pub struct Terminal {
    keys: File,
    child: Child,
    screen: Receiver<Vec<u8>>,
    /// All that was written.
    seen: Vec<u8>,
    /// How much of it was waited for.
    read: usize,
    _home: tempfile::TempDir,
}

impl Terminal {
    /// The program with arguments; `typed` is typed before it starts.
    pub fn open(args: &[&str], typed: &str) -> Terminal {
        let pair = openpty(None, None).expect("a pseudo-terminal");
        let (mut keys, slave) = (File::from(pair.master), pair.slave);
        keys.write_all(typed.as_bytes()).expect("typed");
        let home = tempfile::tempdir().expect("a folder");
        // A session whose keyboard this terminal is, so that Ctrl-C is a signal.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(env!("CARGO_BIN_EXE_ram-run")).args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.env("TERM", "xterm").env("HOME", home.path()).env("XDG_STATE_HOME", home.path());
        let end = || slave.try_clone().expect("a handle");
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("the program starts");
        let (send, screen) = channel();
        let mut output = keys.try_clone().expect("a handle");
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Reading fails once nothing holds the other side.
            while let Ok(n @ 1..) = output.read(&mut bytes) {
                if send.send(bytes[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { keys, child, screen, seen: Vec::new(), read: 0, _home: home }
    }

    /// Types without waiting for anything.
    pub fn keys(&mut self, text: impl AsRef<[u8]>) {
        self.keys.write_all(text.as_ref()).expect("typed");
    }

    /// Waits for a text, and for nothing that was waited for before.
    pub fn wait(&mut self, text: &str) {
        loop {
            if let Some(at) = self.seen[self.read..].windows(text.len()).position(|w| w == text.as_bytes()) {
                self.read += at + text.len();
                return;
            }
            assert!(self.more(), "'{text}' never came: {}", String::from_utf8_lossy(&self.seen));
        }
    }

    /// All that was shown, once the program has ended by itself and well.
    pub fn end(mut self) -> String {
        while self.more() {}
        assert!(self.child.wait().expect("it ends").success());
        String::from_utf8(std::mem::take(&mut self.seen)).expect("UTF-8")
    }

    fn more(&mut self) -> bool {
        // Far more than anything takes: a test that would hang fails.
        let bytes = self.screen.recv_timeout(Duration::from_secs(300));
        self.seen.extend(bytes.iter().flatten());
        bytes.is_ok()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Of a test that failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
