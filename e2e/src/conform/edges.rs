//! The edges of HTTP/1.1: what Ebb makes of odd requests and answers, beside what Debian's nginx makes of them in front of the same pod.

mod nginx;
mod rows;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, anyhow};
use crds::{control::Route, names::FunctionKey};
use futures::{StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    conform::{
        Case,
        backend::{Backend, Seen},
        edges::rows::{Differs, Row},
        kit::Kit,
    },
    control::{pods, route},
    servers::accepts,
};

/// A connection on which nothing comes for so long is called open.
const QUIET: Duration = Duration::from_secs(4);

/// Rows at once.
const TOGETHER: usize = 16;

/// Sends every row to both, each row to pods of its own, so that whatever reaches them, late too, is known to be that row's.
pub(super) async fn run(kit: &Kit) -> Result<Vec<Case>> {
    let rows = rows::all();
    let (mut behind_nginx, mut behind_ebb) = (Vec::new(), Vec::new());
    let (mut nginx_ports, mut routes) = (Vec::new(), Vec::new());
    for (number, row) in rows.iter().enumerate() {
        behind_nginx.push(Backend::start(row.pod).await?);
        behind_ebb.push(Backend::start(row.pod).await?);
        nginx_ports.push(kit.port()?);
        let function = FunctionKey::new("conform", number.to_string());
        routes.push(route(function, kit.port()?));
    }
    let ebb_ports: Vec<u16> = routes.iter().map(|route| route.port).collect();
    let servers = nginx_ports.iter().zip(&behind_nginx);
    let servers: Vec<(u16, SocketAddr)> = servers.map(|(p, b)| (*p, b.address)).collect();
    let nginx = nginx::start(&kit.folder("nginx")?, &servers)?;
    accepts(nginx.address, "nginx").await?;
    let told = |route: &Route| {
        let pod = ebb_ports.iter().position(|port| *port == route.port);
        pods(&route.function, pod.map(|pod| behind_ebb[pod].address))
    };
    let (ebb, control) = kit.activator("edges", routes, told).await?;

    let work = rows.iter().zip(nginx_ports.iter().zip(&ebb_ports));
    let answers: Vec<[Vec<String>; 2]> = stream::iter(work)
        .map(async |(row, (nginx, ebb))| [ask(*nginx, row).await, ask(*ebb, row).await])
        .buffered(TOGETHER)
        .collect()
        .await;

    // With them end their connections to the pods, on which nothing can come then.
    drop(control);
    nginx.end().await?;
    ebb.proxy.end().await?;
    let mut cases = Vec::new();
    let behind = behind_nginx.into_iter().zip(behind_ebb);
    for ((row, [nginx, ebb]), (nginx_pod, ebb_pod)) in rows.iter().zip(answers).zip(behind) {
        let nginx = Became::of(&nginx, &nginx_pod.end().await?);
        let ebb = Became::of(&ebb, &ebb_pod.end().await?);
        cases.push(compare(row, &nginx, &ebb));
    }
    Ok(cases)
}

/// Writes a row's bytes and reads until the other side closes. Returns the statuses of what came back.
async fn ask(port: u16, row: &Row) -> Vec<String> {
    let mut read = Vec::new();
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        // The other side may close before it has read all; what it said is there to be read all the same.
        let _ = stream.write_all(&row.raw).await;
        if row.ends {
            let _ = stream.shutdown().await;
        }
        stream.read_to_end(&mut read).await
    };
    let closed = timeout(QUIET, talk).await.is_ok();
    let mut statuses = statuses(&read);
    if !closed {
        statuses.push("open".to_owned());
    }
    statuses
}

/// The statuses in what a client read. No body has a status line in it.
fn statuses(read: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(read);
    if !text.is_empty() && !text.starts_with("HTTP/1.") {
        return vec!["no-head".to_owned()];
    }
    let parts = text.split("HTTP/1.").skip(1);
    parts
        .map(|part| part.get(2..5).unwrap_or("?").to_owned())
        .collect()
}

/// What became of a row behind one proxy.
struct Became {
    /// In one line: the statuses, and the requests that reached the pod whole.
    line: String,
    answered: usize,
    reached: usize,
}

impl Became {
    fn of(statuses: &[String], seen: &[Seen]) -> Self {
        let mut line = match statuses.is_empty() {
            true => "closed".to_owned(),
            false => statuses.join(" "),
        };
        for seen in seen.iter().filter(|seen| seen.whole) {
            line += " <- ";
            line += &shown(seen);
        }
        let is_final = |status: &&String| !status.starts_with('1') && *status != "open";
        Self {
            line,
            answered: statuses.iter().filter(is_final).count(),
            reached: seen.len(),
        }
    }
}

/// A request as the table shows it.
fn shown(seen: &Seen) -> String {
    let line = seen.line.strip_suffix(" HTTP/1.1").unwrap_or(&seen.line);
    let mut text = match line.split_once(' ') {
        Some((method, target)) => format!("{method} {}{target}", seen.host),
        None => line.to_owned(),
    };
    if !seen.body.is_empty() {
        text += &format!(" '{}'", seen.body.escape_ascii());
    }
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn compare(row: &Row, nginx: &Became, ebb: &Became) -> Case {
    let (expected, why) = match &row.differs {
        Some(Differs { ebb, why }) => (*ebb, *why),
        None => (nginx.line.as_str(), "as nginx does"),
    };
    // One that gets no answer at all has its connection closed: its client knows.
    let result = if ebb.reached > ebb.answered.max(1) {
        Err(anyhow!(
            "{} requests reached the pod, of which the client had {} answered",
            ebb.reached,
            ebb.answered
        ))
    } else if ebb.line != expected {
        Err(anyhow!("expected of Ebb: {expected} ({why})"))
    } else {
        Ok(())
    };
    let mut case = Case::new(format!("{:<44}", row.what), result);
    case.note = match &row.differs {
        None if case.wrong.is_none() => format!("    both {}", ebb.line),
        None => format!("Ebb {}   nginx {}", ebb.line, nginx.line),
        Some(_) => format!("    Ebb {}   nginx {}   ({why})", ebb.line, nginx.line),
    };
    case
}
