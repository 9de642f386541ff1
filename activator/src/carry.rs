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

/// How many times as long what was said before may be on its way to whoever reads it slowly: the kernel asks for more only when it has sent a third of what
/// it has taken.
const SLOWLY: u32 = 10;

/// Carries bytes both ways until both sides have ended. Returns how many came from `there`.
///
/// # Errors
/// Those of the streams, and if nothing moves for [`HALF_CLOSED`] after one side has ended.
pub(crate) async fn carry<A, B>(here: &mut A, there: &mut B) -> io::Result<u64>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Moved::default();
    let mut here = Noted(here, &moved);
    let mut there = Noted(there, &moved);
    let mut carrying = pin!(copy_bidirectional(&mut here, &mut there));
    let mut timer = pin!(sleep_until(Instant::now()));
    // How much was moved when the timer was set, and how often it has gone off since more was.
    let (mut before, mut quiet) = (None, 0);
    poll_fn(|cx| {
        if let Poll::Ready(carried) = carrying.as_mut().poll(cx) {
            return Poll::Ready(carried.map(|(_, from_there)| from_there));
        }
        if !moved.ended.load(Relaxed) {
            return Poll::Pending;
        }
        loop {
            if before.is_some() {
                ready!(timer.as_mut().poll(cx));
            }
            let now = Some(moved.bytes.load(Relaxed));
            quiet = if before == now { quiet + 1 } else { 0 };
            let most = match moved.waits.load(Relaxed) {
                true => SLOWLY,
                false => 1,
            };
            if quiet >= most {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            before = now;
            timer.as_mut().reset(Instant::now() + HALF_CLOSED);
        }
    })
    .await
}

/// What has happened on two streams.
#[derive(Debug, Default)]
struct Moved {
    /// Read and written.
    bytes: AtomicU64,
    /// One has ended.
    ended: AtomicBool,
    /// The last write has to wait.
    waits: AtomicBool,
}

/// A stream of which is noted what is read and written.
struct Noted<'a, S>(&'a mut S, &'a Moved);

impl<S: AsyncRead + Unpin> AsyncRead for Noted<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self(stream, moved) = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        let count = buffer.filled().len() - before;
        moved.bytes.fetch_add(count as u64, Relaxed);
        moved.ended.fetch_or(count == 0, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<'_, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self(stream, moved) = self.get_mut();
        let written = Pin::new(stream).poll_write(cx, bytes);
        moved.waits.store(written.is_pending(), Relaxed);
        if let Poll::Ready(Ok(count)) = written {
            moved.bytes.fetch_add(count as u64, Relaxed);
        }
        written
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
    async fn whoever_reads_slowly_gets_all_that_was_said() {
        let (mut client, mut pod, _carried) = ends();
        pod.write_all(&[b'x'; 100]).await.unwrap();
        drop(pod);
        let mut heard = [0; 100];
        for piece in heard.chunks_mut(25) {
            sleep(5 * HALF_CLOSED).await;
            client.read_exact(piece).await.unwrap();
        }
        assert_eq!(heard, [b'x'; 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn while_both_are_there_silence_is_no_end() {
        let (mut client, _pod, carried) = ends();
        sleep(100 * HALF_CLOSED).await;
        assert!(!carried.is_finished());
        client.write_all(b"still").await.unwrap();
    }
}
