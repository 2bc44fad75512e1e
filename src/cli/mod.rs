//! Arguments → command → result → rendering.

mod args;
mod compose;
mod human;
mod table;
mod template;
