//! What is printed and written in the end.

mod compare;
mod json;
mod tables;

pub(crate) use compare::{Comparison, compare};
pub(crate) use json::json;
pub(crate) use tables::{Setting, tables};
#[cfg(target_os = "linux")]
pub(crate) use tables::{new_table, none, number, times};
