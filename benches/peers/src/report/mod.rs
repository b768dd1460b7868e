//! What is printed and written in the end.

mod compare;
mod json;
mod tables;

pub(crate) use compare::{Comparison, compare};
pub(crate) use json::json;
pub(crate) use tables::{Setting, tables};
