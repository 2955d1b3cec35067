//! The engine on real threads: what users see, told by name as in the reference's test catalogue.
//! Nothing here sleeps to order events: drivers wait for orders, tests wait for notices.

mod callbacks;
mod cancel;
mod endings;
mod fairness;
mod groups;
mod journal;
mod kit;
mod launch;
mod notices;
mod pause;
mod slabs;
mod storm;
mod stuck;
mod tasks;
mod together;
