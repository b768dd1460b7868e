//! The commands, one per file: each has its arguments, and `run`.

pub(crate) mod bench;
pub(crate) mod bootstrap;
pub(crate) mod budget;
pub(crate) mod debug;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod kv;
pub(crate) mod link;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod transfer;
mod txn;
pub(crate) mod wan;

use crate::args::{Cli, Command};
use crate::context::Context;

/// Runs what the command line asks for.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<()> {
    let context = Context::new(cli.global);
    match cli.command {
        Command::Start(args) => start::run(*args).await,
        Command::Bootstrap(args) => bootstrap::run(&context, args).await,
        Command::Dev(args) => dev::run(&context, args).await,
        Command::Demo(args) => demo::run(&context, args).await,
        Command::Table(args) => table::run(&context, args).await,
        Command::Kv(args) => kv::run(&context, args).await,
        Command::Budget(args) => budget::run(&context, args).await,
        Command::Bench(args) => bench::run_bench(&context, *args).await,
        Command::Import(args) => import::run(&context, args).await,
        Command::Export(args) => export::run(&context, args).await,
        Command::Status(args) => status::run(&context, args).await,
        Command::Transfer(args) => transfer::run(&context, args).await,
        Command::Link(args) => link::run(&context, args).await,
        Command::Wan(args) => wan::run(&context, args).await,
        // Works on files, and may take long.
        Command::Debug(args) => tokio::task::block_in_place(|| debug::run(&context, args)),
    }
}
