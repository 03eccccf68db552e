//! The few XDP programs that measuring takes, each some instructions long: a generator, a sink that counts, a reflector.

use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use harness::Namespace;
use nix::libc;
use nix::net::if_::if_nametoindex;

use crate::frames::SOURCE_PORT;

/// Verdicts, as the kernel's `enum xdp_action` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop = 1,
    Pass = 2,
    Transmit = 3,
}

/// The ports that the generator sends from: a power of two of them, from the first on.
pub(crate) const FLOWS: i32 = 1024;
const FIRST_PORT: i32 = 20_000;

/// Commands, types and flags of the system call `bpf`.
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_CREATE: libc::c_long = 28;
const TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const DRIVER_MODE: u32 = 1 << 2;
const LIVE_FRAMES: u32 = 1 << 1;

/// Helpers by their number.
const GET_PRANDOM_U32: i32 = 7;
const REDIRECT: i32 = 23;

/// A loaded program.
#[derive(Debug)]
pub(crate) struct Program(OwnedFd);

/// A program at a device's driver, until dropped.
#[derive(Debug)]
pub(crate) struct Link {
    _descriptor: OwnedFd,
}

/// A count that a program keeps.
pub(crate) struct Count(Array<MapData, u64>);

/// A program that gives every frame the same verdict.
pub(crate) fn always(verdict: Verdict) -> Result<Program> {
    load(&[constant(0, verdict as i32), EXIT])
}

/// A program that drops every frame and counts it. The count needs a name in a BPF file system.
pub(crate) fn sink(count: &Path) -> Result<(Program, Count)> {
    Array::<_, u64>::create(1, 0)?.pin(count)?;
    let map = MapData::from_pin(count)?;
    let [low, high] = value_of(1, map.fd().as_fd().as_raw_fd());
    let instructions = [
        low,
        high,
        constant(2, 1),
        // Frames of one device may come in on both processors: an atomic addition.
        instruction(0xdb, 1, 2, 0, 0),
        constant(0, Verdict::Drop as i32),
        EXIT,
    ];
    let program = load(&instructions)?;
    Ok((program, Count(Array::try_from(Map::Array(map))?)))
}

/// A program that writes `frame`, from a port by chance, and sends it by the device with index `device`.
///
/// The whole frame is written each time, since the kernel uses its memory again as it came back.
pub(crate) fn generator(frame: &[u8], device: u32) -> Result<Program> {
    let length = i32::try_from(frame.len())?;
    let words = frame.chunks_exact(4);
    ensure!(words.remainder().is_empty(), "a frame of whole words");
    let stores = words
        .enumerate()
        .map(|(at, word)| {
            let word = i32::from_le_bytes(word.try_into()?);
            // *(u32 *)(r6 + at) = word
            Ok(instruction(0x62, 6, 0, i16::try_from(4 * at)?, word))
        })
        .collect::<Result<Vec<u64>>>()?;
    let mut instructions = vec![
        // r6 = data; r3 = data_end; if r6 + length > r3, to the end.
        instruction(0x61, 6, 1, 0, 0),
        instruction(0x61, 3, 1, 4, 0),
        instruction(0xbf, 2, 6, 0, 0),
        instruction(0x07, 2, 0, 0, length),
        instruction(0x2d, 2, 3, i16::try_from(stores.len() + 8)?, 0),
    ];
    instructions.extend(stores);
    instructions.extend([
        // r0 = be16(FIRST_PORT + random % FLOWS)
        call(GET_PRANDOM_U32),
        instruction(0x57, 0, 0, 0, FLOWS - 1),
        instruction(0x07, 0, 0, 0, FIRST_PORT),
        instruction(0xdc, 0, 0, 0, 16),
        // *(u16 *)(r6 + SOURCE_PORT) = r0
        instruction(0x6b, 6, 0, i16::try_from(SOURCE_PORT)?, 0),
        constant(1, i32::try_from(device)?),
        constant(2, 0),
        call(REDIRECT),
        EXIT,
    ]);
    // The way out of a frame that is too short lands on the exit, which wants a verdict.
    instructions.insert(0, constant(0, Verdict::Drop as i32));
    load(&instructions)
}

impl Program {
    /// Puts it at a device's driver.
    #[expect(unsafe_code, reason = "a descriptor that the kernel has just made")]
    pub(crate) fn attach(&self, namespace: &Namespace, device: &str) -> Result<Link> {
        #[repr(C)]
        struct Attributes {
            program: u32,
            device: u32,
            kind: u32,
            flags: u32,
        }
        let descriptor = namespace.run(|| {
            let attributes = Attributes {
                program: self.0.as_raw_fd() as u32,
                device: if_nametoindex(device)?,
                kind: ATTACH_XDP,
                flags: DRIVER_MODE,
            };
            bpf(LINK_CREATE, &attributes)
        });
        let descriptor =
            descriptor.with_context(|| format!("attaching an XDP program to {device}"))?;
        // SAFETY: nobody else has it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Link {
            _descriptor: descriptor,
        })
    }

    /// Runs it on `repeat` frames of the length of `frame`, `batch` at a time, and carries out its verdicts.
    pub(crate) fn run(&self, frame: &[u8], repeat: u32, batch: u32) -> Result<()> {
        /// The beginning of `union bpf_attr`; the kernel takes the rest for zero.
        #[repr(C)]
        #[derive(Default)]
        struct Attributes {
            program: u32,
            verdict: u32,
            length_in: u32,
            length_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
            context: [u32; 6],
            flags: u32,
            processor: u32,
            batch: u32,
            padding: u32,
        }
        let attributes = Attributes {
            program: self.0.as_raw_fd() as u32,
            length_in: u32::try_from(frame.len())?,
            data_in: frame.as_ptr() as u64,
            repeat,
            flags: LIVE_FRAMES,
            batch,
            ..Attributes::default()
        };
        bpf(PROG_TEST_RUN, &attributes).context("sending frames")?;
        Ok(())
    }
}

impl Count {
    pub(crate) fn get(&self) -> Result<u64> {
        Ok(self.0.get(&0, 0)?)
    }
}

const EXIT: u64 = instruction(0x95, 0, 0, 0, 0);

/// `struct bpf_insn`.
const fn instruction(code: u8, destination: u8, source: u8, offset: i16, constant: i32) -> u64 {
    code as u64
        | (destination as u64) << 8
        | (source as u64) << 12
        | (offset as u16 as u64) << 16
        | (constant as u32 as u64) << 32
}

const fn constant(register: u8, value: i32) -> u64 {
    instruction(0xb7, register, 0, 0, value)
}

const fn call(helper: i32) -> u64 {
    instruction(0x85, 0, 0, 0, helper)
}

/// Loads the address of an array's first value, `BPF_PSEUDO_MAP_VALUE`.
const fn value_of(register: u8, map: i32) -> [u64; 2] {
    [instruction(0x18, register, 2, 0, map), 0]
}

/// Loads a program.
#[expect(unsafe_code, reason = "a descriptor that the kernel has just made")]
fn load(instructions: &[u64]) -> Result<Program> {
    /// The beginning of `union bpf_attr`; the kernel takes the rest for zero.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
    }
    let attributes = Attributes {
        kind: TYPE_XDP,
        count: u32::try_from(instructions.len())?,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    let descriptor = bpf(PROG_LOAD, &attributes).context("loading an XDP program")?;
    // SAFETY: nobody else has it.
    Ok(Program(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// The system call. What the attributes point to must be alive, which that of all callers here is.
#[expect(
    unsafe_code,
    reason = "the library does these only to what it loaded itself"
)]
fn bpf<T>(command: libc::c_long, attributes: &T) -> std::io::Result<i32> {
    // SAFETY: the kernel reads as much as it is told, and writes only to the results of a test run.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(result as i32)
}
