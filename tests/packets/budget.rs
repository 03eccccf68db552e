//! What the programs cost: instructions that the verifier walks through, and time for a packet.

use dataplane_ebpf::PROGRAMS;

use crate::dataplane::Dataplane;

/// The verifier gives up at a million instructions; kernels differ by a factor of three in how many they need for the
/// same program. A program that comes near the limit fails on somebody else's kernel first.
const BUDGET: u32 = 90_000;

#[test]
fn programs_stay_within_the_verifiers_budget() {
    let dataplane = Dataplane::load().expect("the programs load");
    for program in PROGRAMS {
        let info = dataplane
            .info(program.name)
            .expect("a loaded program has information");
        let verified = info
            .verified_instruction_count()
            .expect("kernels from 5.16 on tell");
        println!(
            "{:14} {verified:6} instructions verified, {:6} bytes",
            program.name,
            info.size_jitted()
        );
        assert!(
            verified <= BUDGET,
            "{} takes {verified} verified instructions",
            program.name
        );
    }
}
