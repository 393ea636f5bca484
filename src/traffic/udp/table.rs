//! The sessions of a socket: found by client, bounded, and given up in an order that a flood cannot use.
//!
//! Whoever sends a datagram may lie about its address, so a session is cheap to get and worth little at first: where there is no
//! room, the one goes whose client has been silent for longest. A client that spoke again after it was answered has shown that
//! it hears us: its session is never given up for another. No single address may hold more than half of the places that way.

use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use ahash::RandomState;
use hashbrown::HashMap;

/// Nobody: the end of a list.
const NONE: u32 = u32::MAX;

/// Room for so many sessions is kept when the last one is over.
const KEPT_SLOTS: usize = 1024;

/// So many of the oldest are looked at for one that nobody waits for.
const NEAR_BY: usize = 16;

/// Who is on the other end.
pub(super) trait Client: Copy + Eq + Hash {
    /// Its address.
    fn address(&self) -> SocketAddr;
}

impl Client for SocketAddr {
    fn address(&self) -> SocketAddr {
        *self
    }
}

/// Sessions by client.
#[derive(Debug)]
pub(super) struct Table<C, S> {
    places: HashMap<C, u32, RandomState>,
    slots: Vec<Slot<C, S>>,
    /// Slots that are free, linked by `next`.
    free: u32,
    fresh: List,
    /// Sessions of proven clients, per source.
    proven: HashMap<u128, u32, RandomState>,
    /// Most proven sessions of one source.
    share: u32,
}

#[derive(Debug)]
struct Slot<C, S> {
    taken: Option<(C, S)>,
    /// When its client last sent something, if it is not proven.
    heard_at: u64,
    is_proven: bool,
    previous: u32,
    next: u32,
}

/// Sessions that may be given up; the client of the first has been silent for longest.
#[derive(Debug)]
struct List {
    first: u32,
    last: u32,
}

impl<C: Client, S> Table<C, S> {
    /// An empty one of `tables` that share `most` places, of which one source may hold half.
    pub(super) fn new(most: usize, tables: usize) -> Self {
        let mut table = Self {
            places: HashMap::default(),
            slots: Vec::new(),
            free: NONE,
            fresh: List { first: NONE, last: NONE },
            proven: HashMap::default(),
            share: 1,
        };
        table.share_among(most, tables);
        table
    }

    /// Has `tables` share `most` places from now on. Who has more by then keeps them.
    pub(super) fn share_among(&mut self, most: usize, tables: usize) {
        self.share = u32::try_from(most / 2 / tables.max(1)).unwrap_or(u32::MAX).max(1);
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is a session of such a client.
    #[cfg(test)]
    pub(super) fn has(&self, is_meant: impl Fn(&C) -> bool) -> bool {
        self.places.keys().any(is_meant)
    }

    /// The session of a client that has sent something `now`. `has_heard_us` says whether it was ever answered.
    pub(super) fn touch(&mut self, client: &C, now: u64, has_heard_us: impl FnOnce(&S) -> bool) -> Option<&S> {
        let at = *self.places.get(client)?;
        let slot = &mut self.slots[at as usize];
        if !slot.is_proven {
            slot.heard_at = now;
            let hears = slot.taken.as_ref().is_some_and(|(_, session)| has_heard_us(session));
            self.unlink(at);
            if hears && self.prove(client) {
                self.slots[at as usize].is_proven = true;
            } else {
                self.link(at);
            }
        }
        self.slots[at as usize].taken.as_ref().map(|(_, session)| session)
    }

    /// Adds the session of a client that has none, and has sent something `now`.
    pub(super) fn insert(&mut self, client: C, session: S, now: u64) {
        let slot = Slot { taken: Some((client, session)), heard_at: now, is_proven: false, previous: NONE, next: NONE };
        let at = match self.free {
            NONE => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
            free => {
                self.free = self.slots[free as usize].next;
                self.slots[free as usize] = slot;
                free
            }
        };
        self.link(at);
        self.places.insert(client, at);
    }

    /// The client that has been silent for longest, of those whose sessions may be given up, and since when; if there is one near by
    /// that `has_heard_us`, then that one, as it waits for nothing.
    pub(super) fn oldest(&self, has_heard_us: impl Fn(&S) -> bool) -> Option<(u64, C)> {
        let slot = |at: u32| self.slots.get(at as usize);
        let oldest = std::iter::successors(Some(self.fresh.first), |at| slot(*at).map(|slot| slot.next));
        let mut sessions = oldest.map_while(slot).filter_map(|slot| Some((slot.heard_at, slot.taken.as_ref()?)));
        let first = sessions.next()?;
        let heard = |(_, (_, session)): &(u64, &(C, S))| has_heard_us(session);
        let (since, (client, _)) = std::iter::once(first).chain(sessions.take(NEAR_BY)).find(heard).unwrap_or(first);
        Some((since, *client))
    }

    /// Takes out the session of the [`Table::oldest`].
    pub(super) fn give_up_oldest(&mut self, has_heard_us: impl Fn(&S) -> bool) -> Option<S> {
        let (_, client) = self.oldest(has_heard_us)?;
        self.remove(&client, |_| true)
    }

    /// Takes out the session of a client, if it is the one that is meant.
    pub(super) fn remove(&mut self, client: &C, is_meant: impl FnOnce(&S) -> bool) -> Option<S> {
        let at = *self.places.get(client)?;
        let slot = &self.slots[at as usize];
        if !slot.taken.as_ref().is_some_and(|(_, session)| is_meant(session)) {
            return None;
        }
        if slot.is_proven {
            self.disprove(client);
        } else {
            self.unlink(at);
        }
        self.places.remove(client);
        let slot = &mut self.slots[at as usize];
        slot.next = self.free;
        slot.is_proven = false;
        let taken = slot.taken.take();
        self.free = at;
        if self.places.is_empty() && self.slots.len() > KEPT_SLOTS {
            // What a flood took goes back.
            *self = Self { share: self.share, ..Self::new(0, 1) };
        }
        taken.map(|(_, session)| session)
    }

    /// Takes out all sessions that are `gone`.
    pub(super) fn take(&mut self, gone: impl Fn(&S) -> bool) -> Vec<S> {
        let taken = self.slots.iter().filter_map(|slot| slot.taken.as_ref());
        let clients: Vec<C> = taken.filter(|(_, session)| gone(session)).map(|(client, _)| *client).collect();
        clients.iter().filter_map(|client| self.remove(client, |_| true)).collect()
    }

    fn prove(&mut self, client: &C) -> bool {
        let count = self.proven.entry(source(client.address())).or_insert(0);
        let may = *count < self.share;
        *count += u32::from(may);
        may
    }

    fn disprove(&mut self, client: &C) {
        let source = source(client.address());
        if let Some(count) = self.proven.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.proven.remove(&source);
            }
        }
    }

    fn link(&mut self, at: u32) {
        let last = std::mem::replace(&mut self.fresh.last, at);
        let slot = &mut self.slots[at as usize];
        (slot.previous, slot.next) = (last, NONE);
        match self.slots.get_mut(last as usize) {
            Some(before) => before.next = at,
            None => self.fresh.first = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let Slot { previous, next, .. } = self.slots[at as usize];
        match self.slots.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => self.fresh.first = next,
        }
        match self.slots.get_mut(next as usize) {
            Some(after) => after.previous = previous,
            None => self.fresh.last = previous,
        }
    }
}

/// Whoever has one address of an IPv6 network of 64 bits has all of them.
fn source(address: SocketAddr) -> u128 {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn client(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], port))
    }

    #[test]
    fn the_longest_silent_is_given_up_and_who_hears_us_is_not() {
        let mut table = Table::new(100, 1);
        for last in 1..=4 {
            table.insert(client(last, 1), last, 0);
        }
        table.touch(&client(1, 1), 0, |_| false);
        table.touch(&client(2, 1), 0, |_| true);
        assert_eq!(table.give_up_oldest(|_| true), Some(3));
        assert_eq!(table.give_up_oldest(|_| true), Some(4));
        assert_eq!(table.give_up_oldest(|_| true), Some(1));
        assert_eq!((table.give_up_oldest(|_| true), table.len()), (None, 1));
        assert_eq!(table.touch(&client(2, 1), 0, |_| false), Some(&2));
    }

    #[test]
    fn tables_beside_each_other_give_one_source_half_altogether() {
        let mut tables = [Table::new(8, 2), Table::new(8, 2)];
        let mut proven = 0;
        for table in &mut tables {
            (1..=8).for_each(|port| table.insert(client(1, port), port, 0));
            (1..=8).for_each(|port| _ = table.touch(&client(1, port), 0, |_| true));
            let given_up = std::iter::from_fn(|| table.give_up_oldest(|_| true)).count();
            proven += 8 - given_up;
        }
        assert_eq!(proven, 4);
    }

    #[test]
    fn who_waits_for_an_answer_is_given_up_last() {
        let mut table = Table::new(100, 1);
        (1..=3).for_each(|last| table.insert(client(last, 1), last, 0));
        assert_eq!(table.give_up_oldest(|session| *session == 2), Some(2));
        assert_eq!(table.give_up_oldest(|_| false), Some(1));
        (10..50).for_each(|last| table.insert(client(last, 1), last, 0));
        assert_eq!(table.give_up_oldest(|session| *session == 49), Some(3), "too far away");
    }

    #[test]
    fn one_source_holds_half_at_most() {
        let mut table = Table::new(4, 1);
        for port in 1..=3 {
            table.insert(client(1, port), port, 0);
            table.touch(&client(1, port), 0, |_| true);
        }
        table.insert(client(2, 9), 9, 0);
        table.touch(&client(2, 9), 0, |_| true);
        assert_eq!((table.give_up_oldest(|_| true), table.give_up_oldest(|_| true)), (Some(3), None));
        // Whose session ends makes room in its share.
        table.remove(&client(1, 1), |_| true);
        table.insert(client(1, 4), 4, 0);
        table.touch(&client(1, 4), 0, |_| true);
        assert_eq!(table.give_up_oldest(|_| true), None);
        let v6 = |text: &str| source(text.parse().unwrap());
        assert_eq!(v6("[2001:db8::1]:1"), v6("[2001:db8::ffff:1]:2"));
        assert_ne!(v6("[2001:db8:0:1::1]:1"), v6("[2001:db8::1]:1"));
        assert_eq!(v6("[::ffff:192.0.2.1]:1"), v6("192.0.2.1:2"));
    }

    #[test]
    fn only_the_session_that_is_meant_is_removed() {
        let mut table = Table::new(4, 1);
        table.insert(client(1, 1), 1, 0);
        assert_eq!(table.remove(&client(1, 1), |session| *session == 2), None);
        assert_eq!(table.remove(&client(1, 1), |session| *session == 1), Some(1));
        assert_eq!(table.remove(&client(1, 1), |_| true), None);
    }

    proptest! {
        #[test]
        fn it_is_a_map_with_an_order(steps in prop::collection::vec((0u8..5, 0u16..12, any::<bool>()), 0..200)) {
            let mut table = Table::new(8, 1);
            let mut model: BTreeMap<u16, bool> = BTreeMap::new();
            let mut order: Vec<u16> = Vec::new();
            for (step, port, heard) in steps {
                let who = client(1, port);
                match step {
                    0 | 1 => if let std::collections::btree_map::Entry::Vacant(vacant) = model.entry(port) {
                        vacant.insert(false);
                        order.push(port);
                        table.insert(who, port, 0);
                    },
                    2 => {
                        let proven = model.values().filter(|proven| **proven).count();
                        prop_assert_eq!(table.touch(&who, 0, |_| heard).copied(), model.get(&port).map(|_| port));
                        if model.get(&port) == Some(&false) {
                            order.retain(|one| *one != port);
                            if heard && proven < 4 { model.insert(port, true); } else { order.push(port); }
                        }
                    }
                    3 => {
                        prop_assert_eq!(table.remove(&who, |_| true), model.remove(&port).map(|_| port));
                        order.retain(|one| *one != port);
                    }
                    _ => {
                        let oldest = (!order.is_empty()).then(|| order.remove(0));
                        oldest.map(|port| model.remove(&port));
                        prop_assert_eq!(table.give_up_oldest(|_| true), oldest);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
            }
            let mut left = table.take(|port| port % 2 == 0);
            left.sort_unstable();
            prop_assert_eq!(left, model.keys().copied().filter(|port| port % 2 == 0).collect::<Vec<_>>());
        }
    }
}
