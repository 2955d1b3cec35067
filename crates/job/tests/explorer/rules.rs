//! What must hold: of every action when it is ordered, of every state after every move, and of what is
//! accepted. Numbers name the invariants of the engine's specification where there is one.

/// Fails the exploration with a sentence unless something holds.
macro_rules! hold {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

mod actions;
mod requests;
mod states;

pub(crate) use actions::before_action;
pub(crate) use requests::should_accept;
pub(crate) use states::after_move;
