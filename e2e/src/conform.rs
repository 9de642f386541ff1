//! `cargo e2e conform`: the activator as a process, beside what protocols and their users expect of a proxy. Needs no cluster.

mod backend;
mod edges;
mod grpc;
mod h2spec;
mod kit;
mod websocket;

use std::{fmt::Write as _, time::Instant};

use anyhow::{Result, bail};
use futures::future::{LocalBoxFuture, join_all};

use crate::{cluster::Progress, conform::kit::Kit, tests::Outcome};

/// One thing that was tried.
struct Case {
    name: String,
    /// What else there is to know.
    note: String,
    /// What is not as it must be.
    wrong: Option<String>,
}

impl Case {
    fn new(name: impl Into<String>, result: Result<()>) -> Self {
        Self {
            name: name.into(),
            note: String::new(),
            wrong: result.err().map(|error| format!("{error:#}")),
        }
    }
}

/// A tester, or a table of requests.
struct Part {
    name: &'static str,
    run: for<'a> fn(&'a Kit) -> LocalBoxFuture<'a, Result<Vec<Case>>>,
}

const PARTS: [Part; 4] = [
    Part {
        name: "h2spec",
        run: |kit| Box::pin(h2spec::run(kit)),
    },
    Part {
        name: "grpc",
        run: |kit| Box::pin(grpc::run(kit)),
    },
    Part {
        name: "edges",
        run: |kit| Box::pin(edges::run(kit)),
    },
    Part {
        name: "websocket",
        run: |kit| Box::pin(websocket::run(kit)),
    },
];

/// Runs the parts, `conform::NAME`, whose name contains `filter`, and prints each of their cases.
///
/// # Errors
/// If what they need cannot be built or installed.
pub async fn run(filter: &str) -> Result<Outcome> {
    let parts = PARTS
        .iter()
        .filter(|part| format!("conform::{}", part.name).contains(filter));
    let parts: Vec<&Part> = parts.collect();
    let mut outcome = Outcome::default();
    if parts.is_empty() {
        return Ok(outcome);
    }
    let kit = Kit::prepare(&Progress::shown()).await?;
    // Each mostly waits, and has its own activator.
    let running = parts.iter().map(async |part| {
        let started = Instant::now();
        let cases = (part.run)(&kit).await;
        (part.name, cases, started.elapsed())
    });
    for (part, cases, took) in join_all(running).await {
        let cases = cases.unwrap_or_else(|error| vec![Case::new("all of it", Err(error))]);
        let (passed, report) = report(part, &cases);
        print!("{report}");
        println!(
            "conform::{part}: {passed} of {} in {:.1} s",
            cases.len(),
            took.as_secs_f64()
        );
        outcome.passed += passed;
        outcome.failed += cases.len() - passed;
    }
    Ok(outcome)
}

/// The same with an error if a case failed.
///
/// # Errors
/// Those of [`run`], and if a case failed or there is none.
pub async fn run_alone(filter: &str) -> Result<()> {
    let outcome = run(filter).await?;
    println!("\n{outcome}");
    match outcome {
        Outcome {
            passed: 0,
            failed: 0,
        } => bail!("no part is named {filter:?}"),
        Outcome { failed: 0, .. } => Ok(()),
        Outcome { failed, .. } => bail!("{failed} tests failed"),
    }
}

/// How many passed, and a line of each, under which stands what is wrong.
fn report(part: &str, cases: &[Case]) -> (usize, String) {
    let (mut passed, mut text) = (0, String::new());
    for Case { name, note, wrong } in cases {
        let word = match wrong {
            None => "ok",
            Some(_) => "FAILED",
        };
        passed += usize::from(wrong.is_none());
        let line = format!("test conform::{part}::{name} ... {word} {note}");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
        if let Some(wrong) = wrong {
            let _ = writeln!(text, "{wrong}");
        }
    }
    (passed, text)
}
