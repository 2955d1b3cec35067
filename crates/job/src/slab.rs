//! Drivers of one type beside each other, in creation order, without a box for each: how they are kept, and the loop
//! that calls them.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::calls::{Came, Round, Stop};
use crate::core::Order;
use crate::driver::{ErasedDriver, caught};
use crate::seat::Seat;
use crate::sync::Baton;

/// One driver; none after its last call. Whoever calls it holds it meanwhile, and nobody waits for it.
pub(crate) type Slot<D> = Baton<Option<D>>;

/// A slot with a driver in it.
pub(crate) fn slot<D>(driver: D) -> Slot<D> {
    Baton::new(Some(driver))
}

/// Neighbours' drivers.
pub(crate) struct Slab<D>(Vec<Slot<D>>);

impl<D> Slab<D> {
    pub(crate) fn new(slots: Vec<Slot<D>>) -> Self {
        Self(slots)
    }
}

/// Some neighbours' drivers, whose type is forgotten. Positions are within the slab.
pub(crate) trait Crew: Send + Sync {
    fn len(&self) -> u32;

    /// Calls these one after the other, until one of them comes to something else than those before it. `first` is the
    /// member at position 0.
    fn call(&self, at: Range<u32>, first: u32, round: &mut Round<'_>) -> Stop;

    /// Whether nobody has this one in hand.
    fn is_free(&self, at: u32) -> bool;

    /// Drops this one for good, unless a call of it has not come back.
    fn discard(&self, at: u32);
}

impl<D: ErasedDriver> Crew for Slab<D> {
    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn call(&self, at: Range<u32>, first: u32, round: &mut Round<'_>) -> Stop {
        let slots = &self.0[at.start as usize..at.end as usize];
        let from = first + at.start;
        // One loop for each order: what is the same for all members is asked once.
        match round.order() {
            Order::Step => each(slots, from, round, |round, member, seat, held| {
                round.step(member, seat, held)
            }),
            Order::Prepare => each(slots, from, round, |round, member, seat, held| {
                round.prepare(member, seat, held)
            }),
            Order::Commit => each(slots, from, round, |round, member, seat, held| {
                round.commit(member, seat, held)
            }),
            Order::Abort => each(slots, from, round, |round, member, _, held| {
                round.abort(member, held)
            }),
            Order::Clean => each(slots, from, round, |round, member, _, held| {
                round.clean(member, held)
            }),
        }
    }

    fn is_free(&self, at: u32) -> bool {
        self.0[at as usize].take().is_some()
    }

    fn discard(&self, at: u32) {
        let driver = self.0[at as usize].take().and_then(|mut held| held.take());
        // A panic while dropping has nobody left to concern.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(driver))).map_err(caught);
    }
}

/// Calls one after the other, each with its driver in hand.
#[inline]
fn each<D: ErasedDriver>(
    slots: &[Slot<D>],
    from: u32,
    round: &mut Round<'_>,
    call: impl Fn(&mut Round<'_>, u32, &Seat, &mut Option<D>) -> Came,
) -> Stop {
    let seats = round.seats(from, slots.len());
    for (member, (slot, seat)) in (from..).zip(slots.iter().zip(seats)) {
        round.claim.go_to(member);
        let came = match slot.take() {
            Some(mut held) if round.claim.covers(member) => call(round, member, seat, &mut held),
            // The watch looks, or took it away.
            Some(_) | None => return Stop::Taken(member),
        };
        match came {
            Came::Same(same) if round.same == Some(same) => {}
            Came::Same(_) | Came::Own(_) => return Stop::Other(member, came),
        }
        if round.slice.is_over() {
            return Stop::TimeUp(member + 1);
        }
    }
    Stop::End
}

/// The drivers of a group, slab by slab in creation order.
#[derive(Default)]
pub(crate) struct Drivers {
    rows: Vec<Row>,
    /// Those added one by one since the last row.
    loose: Vec<Slot<Box<dyn ErasedDriver>>>,
    len: u32,
}

struct Row {
    /// The member at its position 0.
    first: u32,
    crew: Box<dyn Crew>,
}

impl Drivers {
    /// Puts one more at the end.
    pub(crate) fn push(&mut self, driver: Box<dyn ErasedDriver>) {
        self.loose.push(slot(driver));
        self.len += 1;
    }

    /// Puts a slab at the end.
    pub(crate) fn append(&mut self, crew: Box<dyn Crew>) {
        self.close_row();
        self.put(crew);
        self.len += self.rows.last().map_or(0, |row| row.crew.len());
    }

    /// No more will be put in.
    pub(crate) fn sealed(mut self) -> Self {
        self.close_row();
        self.rows.shrink_to_fit();
        self
    }

    fn close_row(&mut self) {
        if !self.loose.is_empty() {
            let mut loose = std::mem::take(&mut self.loose);
            loose.shrink_to_fit();
            self.put(Box::new(Slab::new(loose)));
        }
    }

    fn put(&mut self, crew: Box<dyn Crew>) {
        let first = self.rows.last().map_or(0, |row| row.first + row.crew.len());
        self.rows.push(Row { first, crew });
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Calls the members of a span one after the other, until one comes to something else than those before it, or
    /// the slab ends; then says where to go on.
    pub(crate) fn call(&self, members: Range<u32>, round: &mut Round<'_>) -> Stop {
        let row = self.row(members.start);
        let end = members.end.min(row.first + row.crew.len());
        let at = members.start - row.first..end - row.first;
        let stop = row.crew.call(at, row.first, round);
        if matches!(stop, Stop::End) && end < members.end {
            return Stop::SlabEnd(end);
        }
        stop
    }

    /// Whether nobody has this member's driver in hand.
    pub(crate) fn is_free(&self, member: u32) -> bool {
        let row = self.row(member);
        row.crew.is_free(member - row.first)
    }

    /// Drops a member's driver for good, unless a call of it has not come back.
    pub(crate) fn discard(&self, member: u32) {
        let row = self.row(member);
        row.crew.discard(member - row.first);
    }

    fn row(&self, member: u32) -> &Row {
        let at = self.rows.partition_point(|row| row.first <= member);
        &self.rows[at - 1]
    }
}

impl std::fmt::Debug for Drivers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drivers")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
