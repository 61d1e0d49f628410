// SPDX-License-Identifier: GPL-2.0

//! `make help`: the commands, from the one place where they are declared.

use crate::cli::Cli;
use anyhow::Result;
use clap::CommandFactory;

pub fn run() -> Result<()> {
    println!("make TARGET [VARIABLE=value]\n");
    let cli = Cli::command();
    for command in cli.get_subcommands() {
        println!(
            "  {:<14} {}",
            command.get_name(),
            command.get_about().map(|a| a.to_string()).unwrap_or_default()
        );
    }
    println!("\nVariables:\n");
    for arg in cli.get_arguments() {
        if let Some(name) = arg.get_env() {
            println!(
                "  {:<14} {}",
                name.to_string_lossy(),
                arg.get_help().map(|h| h.to_string()).unwrap_or_default()
            );
        }
    }
    Ok(())
}
