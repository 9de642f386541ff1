//! h2spec: what RFC 9113 and RFC 7541 say of servers, tried one by one at the shared port.

use std::fs;

use anyhow::{Context, Result, anyhow};
use crds::{control::Route, names::FunctionKey};

use crate::{
    conform::{
        Case,
        backend::Backend,
        kit::{Kit, finish},
    },
    control::{pods, route},
};

/// Cases that fail, each with the reason why that harms nobody. One that passes is to be taken out.
const KNOWN: [(&str, &str); 1] = [(
    "http2/3.5 Sends invalid connection preface",
    "the port speaks HTTP/1.1 too, and answers 400 to what is none of both",
)];

/// Long enough for a window to be filled and to become negative.
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\nabcdefghijklmnopqrstuvwxyz";

/// Seconds that h2spec waits for a reaction before it says that there is none.
const PATIENCE: u32 = 2;

pub(super) async fn run(kit: &Kit) -> Result<Vec<Case>> {
    let backend = Backend::start(ANSWER).await?;
    let mut route = route(FunctionKey::new("conform", "h2spec"), kit.port()?);
    // What h2spec has as its authority.
    route.hosts.push("127.0.0.1".into());
    let told = |route: &Route| pods(&route.function, Some(backend.address));
    let (ebb, _control) = kit.activator("h2spec", vec![route], told).await?;
    let report = kit.folder("h2spec")?.join("report.xml");
    // An older one would look like this run's.
    if report.exists() {
        fs::remove_file(&report)?;
    }
    let mut tester = kit.peer("h2spec");
    tester
        .args(["--host", "127.0.0.1", "--path", "/echo"])
        .arg(format!("--port={}", ebb.gateway.port()))
        .arg(format!("--timeout={PATIENCE}"))
        .arg(format!("--junit-report={}", report.display()));
    let output = finish(tester.spawn()?).await?;
    let text = fs::read_to_string(&report).with_context(|| {
        let said = String::from_utf8_lossy(&output.stdout);
        format!("h2spec has ended early: {said}")
    })?;
    Ok(judge(read(&text), &KNOWN))
}

/// A case in the report: its name, and why it failed.
type Tried = (String, Option<String>);

/// Compares with what is known to fail.
fn judge(tried: Vec<Tried>, known: &[(&str, &str)]) -> Vec<Case> {
    let missing = known
        .iter()
        .filter(|(known, _)| !tried.iter().any(|(name, _)| name == known));
    let missing = missing.map(|(known, _)| {
        let why = anyhow!("it is listed as failing, and h2spec has no such case");
        Case::new(*known, Err(why))
    });
    let mut cases: Vec<Case> = missing.collect();
    cases.extend(tried.into_iter().map(|(name, failed)| {
        let known = known.iter().find(|(known, _)| *known == name);
        let (result, note) = match (failed, known) {
            (None, None) => (Ok(()), String::new()),
            (Some(_), Some((_, why))) => (Ok(()), format!("(fails as known: {why})")),
            (Some(why), None) => (Err(anyhow!(why)), String::new()),
            (None, Some(_)) => {
                let why = "it passes; take it out of the list of those that fail";
                (Err(anyhow!(why)), String::new())
            }
        };
        let mut case = Case::new(name, result);
        case.note = note;
        case
    }));
    cases
}

/// Reads h2spec's JUnit report by its lines, as it writes them: what is inside of a failure is not escaped there, so that it is no XML. What was
/// skipped counts as failed: h2spec skips where a server leaves it nothing to try.
fn read(report: &str) -> Vec<Tried> {
    let mut tried: Vec<Tried> = Vec::new();
    for line in report.lines() {
        let line = line.trim();
        if line.starts_with("</test") || line.starts_with("<testsuite") {
            continue;
        }
        if let Some(attributes) = line.strip_prefix("<testcase ") {
            let name = format!(
                "{} {}",
                attribute(attributes, "package"),
                attribute(attributes, "classname")
            );
            tried.push((name, None));
        } else if let Some((_, failed)) = tried.last_mut() {
            let begins = ["<failure>", "<error>", "<skipped>"];
            if begins.iter().any(|begin| line.starts_with(begin)) {
                *failed = Some(String::new());
            }
            if let Some(why) = failed {
                *why += &format!("{line} ");
            }
        }
    }
    tried
}

/// An attribute's value.
fn attribute(attributes: &str, name: &str) -> String {
    let value = attributes.split_once(&format!("{name}=\""));
    let value = value.and_then(|(_, rest)| rest.split_once('"'));
    let value = value.map_or("", |(value, _)| value);
    value
        .replace("&#34;", "\"")
        .replace("&#39;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="3.5. Preface" package="http2/3.5" id="3.5" tests="2" skipped="0" failures="0" errors="1">
    <testcase package="http2/3.5" classname="Sends &#34;a&#34; &amp; b" time="0.0012"></testcase>
    <testcase package="http2/3.5" classname="Sends c" time="2.0012">
      <error>GOAWAY Frame (Error Code: PROTOCOL_ERROR)
Timeout</error>
    </testcase>
    <testcase package="http2/3.5" classname="Sends d" time="0.0012">
      <skipped></skipped>
    </testcase>
  </testsuite>
</testsuites>"#;

    #[test]
    fn reads_reports() {
        let tried = read(REPORT);
        let names: Vec<_> = tried.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "http2/3.5 Sends \"a\" & b",
                "http2/3.5 Sends c",
                "http2/3.5 Sends d"
            ]
        );
        let failed: Vec<_> = tried.iter().map(|(_, failed)| failed.is_some()).collect();
        assert_eq!(failed, [false, true, true]);
    }

    #[test]
    fn what_fails_is_known_and_what_is_known_fails() {
        let failed = || Some("why".to_owned());
        let tried = vec![
            ("passes".into(), None),
            ("fails".into(), failed()),
            ("fails as known".into(), failed()),
            ("passes by now".into(), None),
        ];
        let known = ["fails as known", "passes by now", "is gone"];
        let cases = judge(tried, &known.map(|name| (name, "harmless")));
        let wrong: Vec<_> = cases
            .iter()
            .filter(|case| case.wrong.is_some())
            .map(|case| case.name.as_str())
            .collect();
        assert_eq!(wrong, ["is gone", "fails", "passes by now"]);
    }
}
