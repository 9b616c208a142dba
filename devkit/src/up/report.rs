//! What `up` tells a person: numbered steps, then how to use what is up.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers the steps and prints them as they come.
#[derive(Debug, Default)]
pub struct Steps(AtomicU32);

impl Steps {
    /// A step that is done, and what it showed.
    pub fn done(&self, title: &str, details: &[String]) {
        let number = self.0.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut text = format!("{number:>2}  {title}\n");
        for line in details.iter().flat_map(|detail| detail.lines()) {
            text.push_str("      ");
            text.push_str(line);
            text.push('\n');
        }
        say(&text);
    }
}

/// Writes to standard output at once. A reader that has gone is no reason to stop the system.
pub fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
