//! The members of a group as the shell keeps them: a seat and a driver each, added before the launch and fixed by it.

use crate::driver::ErasedDriver;
use crate::limit::Limit;
use crate::seat::Seat;
use crate::slab::{Crew, Drivers};

/// Seats and drivers, in creation order.
#[derive(Debug, Default)]
pub(crate) struct Members {
    seats: Vec<Seat>,
    drivers: Drivers,
}

/// What members are treated by that the core need not know.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// Units per second; 0 is none.
    pub(crate) speed: u64,
    /// Tasks at a time; 0 stands for the engine's default.
    pub(crate) tasks: u32,
}

impl Members {
    /// Makes room for so many more, if there is as much memory: each is put in beside its neighbours without being moved
    /// again.
    pub(crate) fn make_room(&mut self, count: usize) {
        // No harm if there is none: it is asked for again when it is needed.
        let _ = self.seats.try_reserve(count);
    }

    /// Adds one.
    pub(crate) fn push(&mut self, driver: Box<dyn ErasedDriver>, limits: Limits) {
        self.drivers.push(driver);
        self.seat(limits);
    }

    /// Adds as many as are in the slab.
    pub(crate) fn append(&mut self, crew: Box<dyn Crew>, limits: Limits) {
        self.drivers.append(crew);
        self.seat(limits);
    }

    /// Seats whoever has no seat yet.
    fn seat(&mut self, limits: Limits) {
        let first = self.seats.len();
        self.seats
            .resize_with(self.drivers.len() as usize, Seat::default);
        if limits.speed > 0 || limits.tasks > 0 {
            for seat in &self.seats[first..] {
                let mut odds = seat.odds();
                odds.limit = Limit::new(limits.speed);
                odds.task_limit = limits.tasks;
            }
        }
    }

    /// No more will be added.
    pub(crate) fn sealed(mut self) -> Self {
        self.seats.shrink_to_fit();
        Self {
            seats: self.seats,
            drivers: self.drivers.sealed(),
        }
    }

    pub(crate) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    pub(crate) fn drivers(&self) -> &Drivers {
        &self.drivers
    }
}
