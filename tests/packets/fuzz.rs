//! Whatever comes by a device, the programs stay sane: packets made up at random, most of them nearly right, run through
//! every program for devices, and a judge that reads packets by itself says what may have become of them.
//!
//! `PORTOLAN_FUZZ_CASES` sets how many cases are tried, for a long soak.

mod choices;
mod judge;
mod packet;
mod reading;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use dataplane_ebpf::abi::Node;
use dataplane_ebpf::{Hook, PROGRAMS};
use harness::Namespace;
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use self::choices::Choices;
use self::judge::{Verdict, judge};
use self::reading::{TCP, Tuple, UDP};
use self::world::{World, families, talks};
use crate::pcap;

/// Cases tried when nobody asks for another number: a few seconds.
const CASES: u32 = 4000;

/// The hooks that have a program.
fn device_hooks() -> Vec<Hook> {
    let all = [Hook::Ingress, Hook::Egress, Hook::Pod, Hook::Xdp];
    let has_program = |hook: &Hook| PROGRAMS.iter().any(|program| program.hook == *hook);
    all.into_iter().filter(has_program).collect()
}

fn tuple(frame: &[u8]) -> Option<Tuple> {
    reading::read(frame)?.tuple(frame)
}

/// Has one conversation, with a few packets in it that may be anything, and counts what became of those.
fn converse(world: &mut World, tally: &mut BTreeMap<Verdict, u32>, bytes: &[u8]) -> Result<()> {
    let c = &mut Choices::new(bytes);
    let a = c.pick(&families());
    let all = talks(a, c.pick(&[TCP, UDP]));
    let talk = &all[c.below(all.len())];
    world.set_flags(c.pick(&[0, Node::THROUGH_STACK]))?;
    let opened = world.run(talk.hook, &packet::opening(talk.asked))?;
    let sent = tuple(&opened.packet);
    let mut sent = sent.filter(|sent| opened.drops == 0 && *sent != talk.asked);
    for _ in 0..1 + c.below(3) {
        let there = sent.unwrap_or(talk.asked);
        // Packets of the talk, and errors about what became of them: those go against the stream.
        let (of, likely, is_error) = c.pick(&[
            (talk.asked, talk.hook, false),
            (there.reversed(), talk.reply_hook, false),
            (there, talk.reply_hook, true),
            (talk.asked.reversed(), talk.hook, true),
        ]);
        // A pod's request that came by wire would open another connection than the talk's.
        let is_bound = talk.hook == Hook::Pod && of == talk.asked;
        let hook = if c.once_in(5) && !is_bound {
            c.pick(&device_hooks())
        } else {
            likely
        };
        let input = packet::frame(c, of, is_error);
        let outcome = world.run(hook, &input)?;
        let verdict = judge(talk, sent, hook, &input, &outcome).map_err(|fault| {
            let saved = pcap::save("fuzz", &[&input, &outcome.packet]);
            anyhow!(
                "{fault}\n  {hook:?} made of {input:02x?}\n  {outcome:02x?}\n  in a talk of {:?}, sent as {sent:?}\n  \
                 both packets: {saved:?}",
                talk.asked
            )
        })?;
        *tally.entry(verdict).or_default() += 1;
        if verdict == Verdict::Translated && tuple(&input) == Some(talk.asked) {
            sent = tuple(&outcome.packet);
        }
    }
    Ok(())
}

#[test]
fn anything_may_come() {
    let namespace = Namespace::create().expect("a namespace can be made");
    let world = World::create(&namespace).expect("a node can be made");
    let state = RefCell::new((world, BTreeMap::new()));
    let cases = std::env::var("PORTOLAN_FUZZ_CASES").ok();
    let cases = cases.map_or(CASES, |text| {
        text.parse().expect("PORTOLAN_FUZZ_CASES is a number")
    });
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..Config::default()
    });
    let (_, tally) = namespace.run(move || {
        let verdict = runner.run(&vec(any::<u8>(), 0..80), |bytes| {
            let (world, tally) = &mut *state.borrow_mut();
            converse(world, tally, &bytes)
                .map_err(|error| TestCaseError::fail(format!("{error:#}")))
        });
        verdict.unwrap_or_else(|error| panic!("{error}"));
        state.into_inner()
    });
    println!("{tally:?}");
    let met = |verdict| {
        tally
            .get(&verdict)
            .is_some_and(|count| *count > cases / 200)
    };
    assert!(Verdict::ALL.into_iter().all(met), "too few of a kind");
}
