//! What the person in front of the terminal sees while something takes its time.

use std::time::Instant;

use anyhow::{Context, Result};

/// Prints a line per finished step to stderr, or nothing at all.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    shown: bool,
}

impl Progress {
    /// Progress as a person wants it.
    pub fn shown() -> Self {
        Self { shown: true }
    }

    /// Progress for callers who print their own.
    pub fn hidden() -> Self {
        Self { shown: false }
    }

    /// Prints a line.
    pub fn say(&self, line: &str) {
        if self.shown {
            eprintln!("{line}");
        }
    }

    /// Does a step and prints how long it took. Its error says which step it was.
    pub async fn step<T>(&self, name: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
        let start = Instant::now();
        let done = step.await.with_context(|| format!("{name} failed"))?;
        self.say(&format!("{name} … {:.1} s", start.elapsed().as_secs_f64()));
        Ok(done)
    }
}
