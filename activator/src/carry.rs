//! Carrying bytes both ways between two streams.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional},
    time::{Instant, sleep_until},
};

/// How long one side may be silent after the other one has ended. Most end at once then; one that does not listen would stay forever.
const HALF_CLOSED: Duration = Duration::from_secs(30);

/// Carries bytes both ways until both sides have ended. Returns how many came from `there`.
///
/// # Errors
/// Those of the streams, and if one is silent for [`HALF_CLOSED`] after the other one has ended.
pub(crate) async fn carry<A, B>(here: &mut A, there: &mut B) -> io::Result<u64>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (from_here, from_there) = (Read::default(), Read::default());
    let mut here = Noted(here, &from_here);
    let mut there = Noted(there, &from_there);
    let mut carrying = pin!(copy_bidirectional(&mut here, &mut there));
    let mut timer = pin!(sleep_until(Instant::now()));
    // How much was read when the timer was set.
    let mut before = None;
    poll_fn(|cx| {
        if let Poll::Ready(carried) = carrying.as_mut().poll(cx) {
            return Poll::Ready(carried.map(|(_, from_there)| from_there));
        }
        if !(from_here.ended.load(Relaxed) || from_there.ended.load(Relaxed)) {
            return Poll::Pending;
        }
        loop {
            let read = from_here.bytes.load(Relaxed) + from_there.bytes.load(Relaxed);
            if before.is_some() {
                ready!(timer.as_mut().poll(cx));
            }
            if before == Some(read) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            before = Some(read);
            timer.as_mut().reset(Instant::now() + HALF_CLOSED);
        }
    })
    .await
}

/// What was read from a stream.
#[derive(Debug, Default)]
struct Read {
    bytes: AtomicU64,
    ended: AtomicBool,
}

/// A stream that notes what is read from it.
struct Noted<'a, S>(&'a mut S, &'a Read);

impl<S: AsyncRead + Unpin> AsyncRead for Noted<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self(stream, read) = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        let count = buffer.filled().len() - before;
        read.bytes.fetch_add(count as u64, Relaxed);
        read.ended.fetch_or(count == 0, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<'_, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed step is a failed test
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        task::JoinHandle,
        time::sleep,
    };

    use super::*;

    /// A client's and a pod's end of what is carried.
    fn ends() -> (DuplexStream, DuplexStream, JoinHandle<io::Result<u64>>) {
        let (client, mut here) = duplex(64);
        let (pod, mut there) = duplex(64);
        let carried = tokio::spawn(async move { carry(&mut here, &mut there).await });
        (client, pod, carried)
    }

    #[tokio::test(start_paused = true)]
    async fn one_side_may_go_on_after_the_other_has_ended() {
        let (mut client, mut pod, carried) = ends();
        client.write_all(b"all").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        pod.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "all");
        for _ in 0..10 {
            sleep(HALF_CLOSED / 2).await;
            pod.write_all(b"one").await.unwrap();
        }
        drop(pod);
        assert_eq!(carried.await.unwrap().unwrap(), 30);
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard.len(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_does_not_notice_the_other_ones_end_is_cut_off() {
        for client_ends in [true, false] {
            let (mut client, mut pod, carried) = ends();
            let began = Instant::now();
            match client_ends {
                true => client.shutdown().await.unwrap(),
                false => pod.shutdown().await.unwrap(),
            }
            let cut = carried.await.unwrap().unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::TimedOut);
            assert!(began.elapsed() < 3 * HALF_CLOSED, "{:?}", began.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_both_are_there_silence_is_no_end() {
        let (mut client, _pod, carried) = ends();
        sleep(100 * HALF_CLOSED).await;
        assert!(!carried.is_finished());
        client.write_all(b"still").await.unwrap();
    }
}
