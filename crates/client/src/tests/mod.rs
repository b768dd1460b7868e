//! The client against gateways that answer by script, over real sockets.

mod failover;
mod gateway;
mod retries;
mod sessions;
