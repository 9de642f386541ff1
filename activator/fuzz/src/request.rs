//! A client's connection through the whole activator: reading requests, routing, rewriting, the pool of connections to a pod, and the answers' way back.
//!
//! The pod reads strictly, and what it has read is compared with what the client has sent and was answered: a request that is smuggled
//! is one that the pod has read and nobody was answered, or another one than was sent.

use std::{
    borrow::Cow,
    cell::OnceCell,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use activator::{Args, fuzzing::Door};
use clap::Parser as _;
use crds::{
    control::{self, Backends, PodState, Protocol, Readiness, RevisionBackends, Route, Weight},
    names::FunctionKey,
};
use tokio::{
    runtime::{Builder, Runtime},
    task::yield_now,
};

use crate::{
    pod::{NUMBER, Pod, Seen},
    strict::{self, Answer, Request},
};

/// How often everything that is ready has run, and nothing has come of it, until nothing more will. One step of a request to the pod and of
/// its answer back is seen by neither side.
const STILL: u32 = 8;

/// Longest wait for what must happen at once.
const SOON: Duration = Duration::from_secs(2);

/// A byte that stands for [`LONG`] letters where it comes first: short inputs reach what is longer than the activator reads at once.
const STRETCHED: u8 = 0x1f;

/// More than two reads of a head.
const LONG: usize = 20_000;

/// What all inputs of a process are served by.
struct World {
    runtime: Runtime,
    door: Door,
    pod: Pod,
}

thread_local! {
    static WORLD: OnceCell<World> = const { OnceCell::new() };
}

/// Takes the first byte for where and by whom, and the rest for what a client writes on a connection.
pub fn run(input: &[u8]) {
    let Some((&options, bytes)) = input.split_first() else {
        return;
    };
    let bytes = &*stretch(bytes);
    WORLD.with(|world| {
        let world = world.get_or_init(|| World::new().expect("an activator and a pod start"));
        let tried = || world.runtime.block_on(world.exchange(options, bytes));
        // Once may be the machine: a byte that took its time from one socket to another.
        if tried().is_err()
            && let Err(wrong) = tried()
        {
            panic!("{wrong}: {}", bytes.escape_ascii());
        }
    });
}

fn stretch(input: &[u8]) -> Cow<'_, [u8]> {
    let mut parts = input.splitn(2, |byte| *byte == STRETCHED);
    match (parts.next(), parts.next()) {
        (Some(before), Some(after)) => [before, &[b'x'; LONG], after].concat().into(),
        _ => input.into(),
    }
}

impl World {
    fn new() -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let args = Args::parse_from([
            "activator",
            "--pod-name=fuzz",
            "--control-token-file=/nowhere",
            "--trusted-proxies=10.0.0.0/8",
        ]);
        let (door, pod) = runtime.block_on(async {
            let pod = Pod::start().await?;
            let door = Door::open(&args, &route(), &backends(pod.address))?;
            anyhow::Ok((door, pod))
        })?;
        Ok(Self { runtime, door, pod })
    }

    async fn exchange(&self, options: u8, bytes: &[u8]) -> Result<(), String> {
        self.pod.log().seen.clear();
        // A pair of sockets costs a tenth of a connection; the activator does not notice.
        let (ours, theirs) = pair().map_err(|error| error.to_string())?;
        let peer: SocketAddr = match options & 1 {
            0 => ([192, 0, 0, 9], 9).into(),
            _ => ([10, 0, 0, 9], 9).into(),
        };
        let serving = async {
            self.door.serve(theirs, peer, options & 2 != 0).await;
            Ok(())
        };
        let mut client = Client::new(ours);
        let ended = async {
            // The first part alone, and all of it.
            let first = bytes.len() * usize::from(options >> 2) / 64;
            for part in [&bytes[..first], &bytes[first..]] {
                client.write(part);
                self.settle(&mut client).await;
            }
            let _ = client.stream.shutdown(Shutdown::Write);
            self.end(&mut client).await
        };
        tokio::try_join!(serving, ended)?;
        self.rest().await?;
        // HTTP/2 is its library's to tell answers apart; what the pod gets is checked all the same.
        if bytes.starts_with(b"PRI ") {
            return Ok(());
        }
        // On the shared port that begins a handshake of TLS. There is no certificate here, so all of it is refused.
        if options & 2 != 0 && bytes.first() == Some(&0x16) {
            return match self.pod.log().seen.is_empty() {
                true => Ok(()),
                false => Err("the pod got something of a handshake".to_owned()),
            };
        }
        let answers = answers(&client.got)?;
        compare(bytes, &answers, &self.pod.log().seen)
    }

    /// Waits until nothing happens any more.
    async fn settle(&self, client: &mut Client) {
        let (mut still, mut events) = (0, self.pod.log().events);
        while still < STILL {
            yield_now().await;
            let now = self.pod.log().events;
            let moved = client.read() || now != events;
            still = if moved { 0 } else { still + 1 };
            events = now;
        }
    }

    /// Waits for the end of the connection, which its client has ended.
    async fn end(&self, client: &mut Client) -> Result<(), String> {
        let began = Instant::now();
        while !client.ended {
            client.read();
            yield_now().await;
            if began.elapsed() > SOON {
                return Err("the connection of a client that left does not end".to_owned());
            }
        }
        Ok(())
    }

    /// Waits until the pod's connections are between two requests, or closed.
    async fn rest(&self) -> Result<(), String> {
        let began = Instant::now();
        while self.pod.log().unfinished > 0 {
            yield_now().await;
            if began.elapsed() > SOON {
                return Err("a request to the pod was begun and left open".to_owned());
            }
        }
        Ok(())
    }
}

fn pair() -> std::io::Result<(UnixStream, TcpStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((ours, TcpStream::from(OwnedFd::from(theirs))))
}

/// The client's side of a connection.
struct Client {
    stream: UnixStream,
    got: Vec<u8>,
    ended: bool,
}

impl Client {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            got: Vec::new(),
            ended: false,
        }
    }

    /// Writes what the activator still takes: inputs are smaller than a socket's buffer.
    fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Reads what is there. True: there was something.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(length) => {
                self.got.extend_from_slice(&buffer[..length]);
                return true;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.ended = true,
        }
        false
    }
}

/// Reads a client's answers.
fn answers(mut bytes: &[u8]) -> Result<Vec<Answer>, String> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let wrong = |why| format!("the client is answered {why}: {}", bytes.escape_ascii());
        let read = strict::answer(bytes).map_err(wrong)?;
        let (answer, length) = read.ok_or_else(|| wrong("half a head"))?;
        bytes = &bytes[length..];
        let said = answer.first("content-length").unwrap_or(b"0");
        let said: Option<usize> = std::str::from_utf8(said).ok().and_then(|s| s.parse().ok());
        let said = said.ok_or("the client is told a length that is none")?;
        match answer.status {
            100 => continue,
            // The pod says nothing more.
            101 => bytes = &[],
            _ => {
                // The activator's own sentence to a HEAD is left out, and no sentence begins as an answer does.
                let none = bytes.is_empty() || bytes.starts_with(b"HTTP/1.");
                let length = if none { 0 } else { said };
                bytes = bytes
                    .get(length..)
                    .ok_or("the client's answer is too short")?;
            }
        }
        answers.push(answer);
    }
    Ok(answers)
}

/// Each request that the pod has got was answered, in its order; and those that have one meaning have reached the pod as they were sent.
fn compare(mut bytes: &[u8], answers: &[Answer], seen: &[Seen]) -> Result<(), String> {
    let number = |answer: &Answer| {
        let number = answer.first(NUMBER)?;
        std::str::from_utf8(number).ok()?.parse::<usize>().ok()
    };
    let numbers: Vec<usize> = answers.iter().filter_map(number).collect();
    if !numbers.iter().copied().eq(0..seen.len()) {
        let (read, told) = (seen.len(), numbers.len());
        return Err(format!(
            "the pod has got {read} requests, answers of it are {told}"
        ));
    }
    for answer in answers {
        let Ok(Some((sent, length))) = strict::request(bytes) else {
            return Ok(());
        };
        bytes = &bytes[length..];
        let Some(got) = number(answer).and_then(|number| seen.get(number)) else {
            continue;
        };
        same(&sent, &got.request)?;
        if let Some(switched) = &got.switched {
            let all = switched == bytes;
            return all.then_some(()).ok_or("not all came through".to_owned());
        }
    }
    Ok(())
}

/// Whether the pod has got what was sent.
fn same(sent: &Request, got: &Request) -> Result<(), String> {
    let differs = |what: &str| Err(format!("{what} differs: sent {sent:?}, got {got:?}"));
    if sent.method != got.method {
        return differs("the method");
    }
    if sent.body != got.body {
        return differs("the body");
    }
    // A fragment has no business in a target, and is cut off.
    let target = sent.target.split('#').next().unwrap_or_default();
    let origin = target.starts_with('/');
    if origin && target != got.target {
        return differs("the target");
    }
    let host = sent.all("host").next();
    if origin && host.is_some() && host != got.all("host").next() {
        return differs("the host");
    }
    for name in ["authorization", "content-type", "range", "x-custom"] {
        let dropped = sent.all("connection").next().is_some();
        if !dropped && !sent.all(name).eq(got.all(name)) {
            return differs(name);
        }
    }
    Ok(())
}

fn route() -> Route {
    Route {
        function: FunctionKey::new("shop", "hello"),
        port: 20_000,
        hosts: vec!["hello.shop".to_owned()],
        weights: vec![Weight {
            revision: "hello-1".to_owned(),
            weight: 1,
        }],
        cold_start_ms: 10_000,
        request_ms: 10_000,
        first_byte_ms: None,
        idle_ms: None,
        count_upgrades: true,
        keep_alive_probe: None,
    }
}

fn backends(pod: SocketAddr) -> Backends {
    Backends {
        function: FunctionKey::new("shop", "hello"),
        drain: 0,
        revisions: vec![RevisionBackends {
            revision: "hello-1".to_owned(),
            port: pod.port(),
            protocol: Protocol::Http1,
            readiness: Readiness::Connect,
            problem: None,
            pods: vec![control::Pod {
                uid: "pod".to_owned(),
                name: "pod".to_owned(),
                address: pod.ip(),
                state: PodState::Serving,
                startup: None,
            }],
        }],
        problem: None,
        limit: None,
    }
}
