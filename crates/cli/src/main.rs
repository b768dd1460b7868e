//! The `meridian` program: parse, resolve, run.
//!
//! Data goes to stdout, everything else to stderr, so that every command can be piped. What a program needs to know
//! about a failure is in the exit code ([`exit`]), what a person needs is in the message.

mod args;
mod commands;
mod consistency;
mod context;
mod exit;
mod output;
mod records;
mod reply;
mod signal;
#[cfg(test)]
mod tests;
mod text;

use clap::Parser as _;
use output::Format;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let filter = EnvFilter::try_from_env("MERIDIAN_LOG").unwrap_or_else(|_| EnvFilter::new(cli.command.log_level()));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return exit::ERROR.into();
        }
    };
    let format = cli.global.format;
    match runtime.block_on(commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if exit::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            match format {
                Format::Human => eprintln!("error: {}", exit::message(&error)),
                Format::Json => eprintln!("{}", exit::json(&error)),
            }
            exit::code(&error).into()
        }
    }
}
