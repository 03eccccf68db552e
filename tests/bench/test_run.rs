//! Single runs of the programs for packets, with the maps as a daemon has filled them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::{Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use dataplane_ebpf::{Hook, OBJECT, PROGRAMS};

use crate::kernel;

/// The programs, loaded once more.
pub(crate) struct Programs(Ebpf);

/// What one run did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) nanoseconds: f64,
    /// Whether the packet is another one afterwards.
    pub(crate) changed: bool,
}

impl Programs {
    /// Loads the programs with the maps pinned under `pins`.
    pub(crate) fn load(pins: &Path) -> Result<Self> {
        let directory = kernel::directory(pins);
        let entries = fs::read_dir(&directory)?.collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = entries
            .iter()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let mut loader = EbpfLoader::new();
        for name in &names {
            loader.map_pin_path(name, directory.join(name));
        }
        let mut programs = loader.load(OBJECT).context("loading the programs")?;
        for program in PROGRAMS {
            let loaded = programs.program_mut(program.name).context("a program")?;
            match program.hook {
                Hook::Ingress | Hook::Egress | Hook::Pod => {
                    patiently(|| <&mut SchedClassifier>::try_from(&mut *loaded)?.load())?;
                }
                Hook::Xdp => patiently(|| <&mut Xdp>::try_from(&mut *loaded)?.load())?,
                Hook::SocketAddress | Hook::Socket => {}
            }
        }
        Ok(Self(programs))
    }

    /// Runs a program on a packet as if it came by the device with index `device` of the calling thread's namespace.
    pub(crate) fn run(&self, program: &str, device: u32, packet: &[u8]) -> Result<Run> {
        let loaded = self.0.program(program).context("a program")?;
        let mut out = vec![0; packet.len() + 256];
        let context = context(loaded, device, u32::try_from(packet.len())?);
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let result = match loaded {
            Program::Xdp(loaded) => loaded.test_run(options),
            Program::SchedClassifier(loaded) => loaded.test_run(options),
            _ => anyhow::bail!("{program} is no program for packets"),
        };
        let result = result.with_context(|| format!("running {program}"))?;
        Ok(Run {
            nanoseconds: result.duration.as_nanos() as f64,
            changed: out[..result.data_size_out as usize] != *packet,
        })
    }
}

/// What a program is told besides the packet.
fn context(program: &Program, device: u32, length: u32) -> Vec<u8> {
    let words = match program {
        // `struct xdp_md`: where the packet begins and ends, and in the fourth word the device.
        Program::Xdp(_) => vec![0, length, 0, device, 0, 0],
        // `struct __sk_buff`, whose eleventh word is the device.
        _ => (0..48)
            .map(|at| if at == 10 { device } else { 0 })
            .collect(),
    };
    words.into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// A signal interrupts the verifier with EAGAIN.
fn patiently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<()> {
    for _ in 0..4 {
        if load().is_ok() {
            return Ok(());
        }
    }
    Ok(load()?)
}
