//! Pods: what is said of them and what is known of them.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// What the operator says of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Not known to be ready: usable only after a probe of our own has passed.
    Starting,
    /// Ready.
    Serving,
    /// Takes no new request.
    Draining,
    /// Takes no new request from here, since another sends to it.
    Away,
}

/// A pod as the caller describes it.
#[derive(Clone, Debug)]
pub struct Pod<P> {
    /// What tells it from every other pod, forever.
    pub id: Arc<str>,
    /// Revision that it belongs to.
    pub revision: Arc<str>,
    /// What the operator says of it.
    pub told: Told,
    /// Requests that it may have at once; those above it wait.
    pub limit: u32,
    /// What a slot on it carries.
    pub payload: P,
}

/// The whole picture that a [`Gate`](crate::Gate) is to follow.
#[derive(Clone, Debug)]
pub struct Target<P> {
    /// Names the set of draining pods; handed to the gate's `on_drained`.
    pub drain: u64,
    /// Revisions that take new requests, with their shares. A share of 0 takes none.
    pub weights: Vec<(Arc<str>, u32)>,
    /// Every pod that may take or still has requests.
    pub pods: Vec<Pod<P>>,
    /// Set where the pods are [`Told::Away`]: each new number asks once more for [`Notice::Released`](crate::Notice::Released).
    pub released: Option<u64>,
}

/// Whether a pod may be used: what was told, and what we found out since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) told: Told,
    /// Ready as far as we know: told so, or probed since; and it has not refused a connection since.
    pub(crate) trusted: bool,
}

impl Standing {
    pub(crate) fn new(told: Told) -> Self {
        Self {
            told,
            trusted: told == Told::Serving,
        }
    }

    /// Takes in what is told now. Only a change of it outweighs what we found out ourselves: a repeated `Starting` does not
    /// undo a passed probe, a repeated `Serving` does not undo a refused connection.
    pub(crate) fn tell(&mut self, told: Told) {
        if told != self.told {
            self.trusted = match told {
                Told::Serving => true,
                Told::Starting => false,
                Told::Draining | Told::Away => self.trusted,
            };
            self.told = told;
        }
    }

    pub(crate) fn usable(self) -> bool {
        self.trusted && !matches!(self.told, Told::Draining | Told::Away)
    }
}

/// How many requests are in a pod. Shared by the pod's member and its slots, so that slots outlive the pod's membership.
/// Changed only under the gate's lock, hence relaxed.
#[derive(Debug, Default)]
pub(crate) struct Load(AtomicU32);

impl Load {
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A pod of a lane.
#[derive(Debug)]
pub(crate) struct Member<P> {
    pub(crate) id: Arc<str>,
    pub(crate) payload: P,
    pub(crate) standing: Standing,
    pub(crate) load: Arc<Load>,
    /// Requests that it may have at once.
    pub(crate) limit: u32,
    /// A [`Probe`](crate::Probe) of it is out.
    pub(crate) probing: bool,
}

impl<P> Member<P> {
    pub(crate) fn new(pod: Pod<P>, load: Arc<Load>) -> Self {
        Self {
            id: pod.id,
            payload: pod.payload,
            standing: Standing::new(pod.told),
            load,
            limit: pod.limit,
            probing: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies what is told in turn, `trusted` being set by hand after the first, and returns whether the pod is usable.
    fn after(first: Told, trusted: Option<bool>, then: &[Told]) -> bool {
        let mut standing = Standing::new(first);
        if let Some(trusted) = trusted {
            standing.trusted = trusted;
        }
        for told in then {
            standing.tell(*told);
        }
        standing.usable()
    }

    #[test]
    fn a_change_of_what_is_told_outweighs_what_was_found_out() {
        use Told::{Away, Draining, Serving, Starting};
        let (probed, refused) = (Some(true), Some(false));
        for (first, found, then, usable) in [
            (Starting, None, &[][..], false),
            (Serving, None, &[], true),
            (Starting, probed, &[Starting], true),
            (Starting, None, &[Serving], true),
            (Serving, None, &[Starting], false),
            (Serving, refused, &[Serving], false),
            (Serving, None, &[Draining], false),
            (Serving, None, &[Draining, Serving], true),
            (Starting, None, &[Draining, Serving], true),
            (Starting, probed, &[Draining], false),
            (Serving, None, &[Draining, Starting], false),
            (Serving, None, &[Away], false),
            (Starting, None, &[Away], false),
            (Starting, None, &[Away, Serving], true),
            (Starting, probed, &[Away, Starting], false),
        ] {
            assert_eq!(
                after(first, found, then),
                usable,
                "{first:?} {found:?} {then:?}"
            );
        }
    }
}
