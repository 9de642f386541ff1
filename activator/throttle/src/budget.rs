//! What may wait over all Functions, shared fairly among tenants.
//!
//! A tenant may use all that others leave. When nothing is left, who comes takes the place of the newest of those that wait for the tenant
//! that has the most, if that tenant has more than the one who comes would have (longest queue drop: Suter, Lakshman, Stiliadis and Choudhury,
//! "Design considerations for supporting TCP with per-flow queueing", 1998). So a tenant that has less than an equal share is never refused.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Requests.
    pub count: usize,
    /// What they cost, in bytes.
    pub bytes: usize,
}

/// All that waits, by tenant.
#[derive(Debug)]
pub struct Budget {
    most: Most,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    count: usize,
    bytes: usize,
    /// Those that have somebody waiting.
    tenants: HashMap<Arc<str>, Tenant>,
}

#[derive(Debug, Default)]
struct Tenant {
    bytes: usize,
    /// By arrival.
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    bytes: usize,
    shed: oneshot::Sender<()>,
}

/// There is no place, and the tenant has its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverBudget;

/// A place in the budget, given back when dropped.
#[derive(Debug)]
pub struct Place {
    budget: Arc<Budget>,
    tenant: Arc<str>,
    number: u64,
    bytes: usize,
    shed: oneshot::Receiver<()>,
}

impl Budget {
    /// An empty budget.
    pub fn new(most: Most) -> Arc<Self> {
        Arc::new(Self {
            most,
            state: Mutex::default(),
        })
    }

    /// A place for a request of `tenant` that costs so many bytes while it waits.
    ///
    /// # Errors
    /// If there is none, and nobody has more than the tenant.
    pub fn enter(self: &Arc<Self>, tenant: &Arc<str>, bytes: usize) -> Result<Place, OverBudget> {
        let mut state = self.state.lock();
        state.make_room(self.most, tenant, bytes)?;
        let (sender, shed) = oneshot::channel();
        let number = state.next;
        state.next += 1;
        state.count += 1;
        state.bytes += bytes;
        let of_tenant = state.tenants.entry(Arc::clone(tenant)).or_default();
        of_tenant.bytes += bytes;
        let waiting = Waiting {
            bytes,
            shed: sender,
        };
        of_tenant.waiting.insert(number, waiting);
        Ok(Place {
            budget: Arc::clone(self),
            tenant: Arc::clone(tenant),
            number,
            bytes,
            shed,
        })
    }
}

impl State {
    /// Sheds as many as must go for one more of `tenant`; none if that is not fair.
    fn make_room(&mut self, most: Most, tenant: &str, bytes: usize) -> Result<(), OverBudget> {
        if bytes > most.bytes {
            return Err(OverBudget);
        }
        while self.count >= most.count || self.bytes + bytes > most.bytes {
            let own = self.tenants.get(tenant).map_or(0, |tenant| tenant.bytes);
            let richest = self.tenants.iter().max_by_key(|(_, tenant)| tenant.bytes);
            let (name, _) = richest
                .filter(|(_, richest)| richest.bytes > own + bytes)
                .ok_or(OverBudget)?;
            let name = Arc::clone(name);
            let newest = self
                .tenants
                .get(&name)
                .and_then(|t| t.waiting.last_key_value());
            let newest = newest.map(|(number, _)| *number).ok_or(OverBudget)?;
            if let Some(shed) = self.leave(&name, newest) {
                // Who has just gone of its own accord is gone, too.
                let _ = shed.send(());
            }
        }
        Ok(())
    }

    fn leave(&mut self, name: &Arc<str>, number: u64) -> Option<oneshot::Sender<()>> {
        let tenant = self.tenants.get_mut(name)?;
        let waiting = tenant.waiting.remove(&number)?;
        tenant.bytes -= waiting.bytes;
        self.bytes -= waiting.bytes;
        self.count -= 1;
        if tenant.waiting.is_empty() {
            self.tenants.remove(name);
        }
        Some(waiting.shed)
    }
}

impl Place {
    /// What it costs while it waits.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Resolves when the place was given to another tenant. Cancellation-safe.
    pub async fn shed(&mut self) {
        // The sender is dropped only by the place's own drop.
        let _ = (&mut self.shed).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.budget.state.lock().leave(&self.tenant, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    const MOST: Most = Most {
        count: 10,
        bytes: 1_000,
    };

    fn enter(budget: &Arc<Budget>, tenant: &str, bytes: usize, times: usize) -> Vec<Place> {
        let tenant = Arc::from(tenant);
        let places = (0..times).map_while(|_| budget.enter(&tenant, bytes).ok());
        places.collect()
    }

    fn shed(places: &mut [Place]) -> Vec<bool> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut is_shed =
            |place: &mut Place| std::pin::pin!(place.shed()).poll(&mut cx) == Poll::Ready(());
        places.iter_mut().map(&mut is_shed).collect()
    }

    #[test]
    fn a_tenant_may_use_what_others_leave_and_no_more() {
        let budget = Budget::new(MOST);
        let places = enter(&budget, "a", 10, 20);
        assert_eq!(
            (places.len(), budget.state.lock().bytes),
            (10, 100),
            "by count"
        );
        drop(places);
        assert_eq!(budget.state.lock().bytes, 0);
        assert_eq!(enter(&budget, "a", 300, 20).len(), 3, "by bytes");
        assert!(enter(&budget, "a", 1_001, 1).is_empty(), "more than all");
    }

    #[test]
    fn who_has_less_takes_the_newest_place_of_who_has_most() {
        let budget = Budget::new(MOST);
        let mut a = enter(&budget, "a", 10, 8);
        let mut b = enter(&budget, "b", 10, 2);
        let mut c = enter(&budget, "c", 10, 20);
        assert_eq!(
            c.len(),
            4,
            "until it has as many as the others have at most"
        );
        let gone = shed(&mut a);
        assert_eq!(gone, [false, false, false, false, true, true, true, true]);
        assert_eq!(shed(&mut b), [false, false], "less than the others");
        assert_eq!(enter(&budget, "a", 10, 1).len(), 0);
        // Places that were shed give nothing back a second time.
        a.truncate(4);
        assert_eq!(enter(&budget, "a", 10, 1).len(), 0);
        assert_eq!(shed(&mut c), [false; 4]);
        drop((a, b, c));
        assert!(budget.state.lock().tenants.is_empty());
    }

    #[test]
    fn large_requests_cost_what_they_are() {
        let budget = Budget::new(MOST);
        let mut a = enter(&budget, "a", 300, 3);
        let b = enter(&budget, "b", 50, 4);
        assert_eq!(b.len(), 4);
        assert_eq!(
            shed(&mut a),
            [false, false, true],
            "one makes room for three"
        );
    }
}
