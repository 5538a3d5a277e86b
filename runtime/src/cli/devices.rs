//! `gemrun devices`: what this machine can run on.

use crate::cli::{Outcome, output};
use gembin_runtime::drivers::vulkan::VulkanOptions;
use gembin_runtime::drivers::{self, Settings};
use serde::Serialize;

/// List the devices this program knows, what they can do here, or why they cannot be used
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  gemrun devices
  gemrun devices --json")]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listed {
    /// What `--device` takes.
    name: String,
    usable: bool,
    /// Its abilities, or the reason it cannot be used.
    about: String,
    /// Sets of kernels that it can run, slowest first; `--isa` forces one.
    kernels: Vec<&'static str>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let settings = Settings {
        vulkan: VulkanOptions::from_environment().map_err(anyhow::Error::msg)?,
        ..Settings::default()
    };
    let listed: Vec<Listed> = drivers::DEVICES
        .iter()
        .flat_map(|&device| drivers::list(device, &settings))
        .map(|device| Listed {
            name: device.name,
            usable: device.about.is_ok(),
            about: device.about.unwrap_or_else(|reason| reason),
            kernels: device.kernels,
        })
        .collect();
    if args.json {
        output::json(&listed)?;
    } else {
        for device in listed {
            let state = if device.usable { "" } else { "not usable: " };
            output::to_stdout(&format!("{}: {state}{}\n", device.name, device.about))?;
        }
    }
    Ok(Outcome::Done)
}
