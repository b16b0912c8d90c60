//! `tercet`: the coordinator as a process, and the command line to look at it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tercet_coordinator::console::main()
}
