//! Objects in, maps out: what is installed for each of the scenarios in `tests/golden`, whatever the order of events,
//! across restarts and failing writes, and that nothing is left when everything is gone. Needs no privilege.
//!
//! With `UPDATE_GOLDEN=1` the expected texts are written instead of compared.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod addresses;
mod affinity;
mod backends;
mod cidrs;
mod daemon;
mod direct;
mod health;
mod health_check;
mod histories;
mod ids;
mod room;

use std::path::{Path, PathBuf};

use daemon::{Daemon, LATER, Objects, installed, parse, sizes};
use model::Event;
use proxy::maps::Fake;

/// The files of all scenarios.
fn scenarios() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = std::fs::read_dir(directory).unwrap();
    let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().unwrap() == "yaml");
    files.sort();
    files
}

fn read(path: &Path) -> Objects {
    let text = std::fs::read_to_string(path).unwrap();
    parse(&text)
}

/// The scenario called `name`.
fn scenario(name: &str) -> Objects {
    let wanted = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem == name);
    read(&scenarios().into_iter().find(wanted).unwrap())
}

/// Runs `check` on every scenario with its expected text.
fn each_scenario(check: impl Fn(&str, &Objects, &str)) {
    for path in scenarios() {
        let expected = std::fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        check(
            &path.file_name().unwrap().to_string_lossy(),
            &read(&path),
            &expected,
        );
    }
}

#[test]
fn scenarios_install_what_is_expected() {
    for path in scenarios() {
        let text = installed(&read(&path)).dump();
        let expected = path.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected, &text).unwrap();
        }
        assert_eq!(
            text,
            std::fs::read_to_string(&expected).unwrap(),
            "{}",
            path.display()
        );
    }
}

#[test]
fn the_order_of_arrival_does_not_matter() {
    each_scenario(|name, objects, expected| {
        let mut slices_first = Daemon::start(Fake::new(sizes()));
        slices_first.see(Event::Node(objects.node.clone()));
        slices_first.see(Event::Slices(objects.slices.clone()));
        slices_first.see(Event::Services(objects.services.clone()));
        slices_first.settle();
        assert_eq!(
            slices_first.dump(),
            expected,
            "{name}, lists the other way round"
        );

        let mut one_by_one = Daemon::start(Fake::new(sizes()));
        one_by_one.see_all(&Objects::default());
        for slice in objects.slices.iter().rev() {
            one_by_one.see(Event::Slice(slice.clone()));
        }
        for service in objects.services.iter().rev() {
            one_by_one.see(Event::Service(service.clone()));
        }
        one_by_one.see(Event::Node(objects.node.clone()));
        one_by_one.settle();
        assert_eq!(
            one_by_one.dump(),
            expected,
            "{name}, one by one from the end"
        );
    });
}

#[test]
fn nothing_is_left_when_everything_is_gone() {
    each_scenario(|_, objects, _| {
        let mut services_first = installed(objects);
        for service in &objects.services {
            services_first.see(Event::ServiceGone(service.name.clone()));
        }
        services_first.settle();
        services_first.assert_empty();

        let mut slices_first = installed(objects);
        for slice in objects.slices.iter().rev() {
            slices_first.see(Event::SliceGone(slice.name.clone()));
        }
        slices_first.see(Event::Services(Vec::new()));
        slices_first.settle();
        slices_first.assert_empty();
    });
}

#[test]
fn a_restarted_daemon_that_sees_the_same_writes_nothing() {
    each_scenario(|name, objects, expected| {
        let before = installed(objects);
        let writes = before.writes();
        let mut after = before.restart();
        assert_eq!(after.dump(), expected, "{name}");
        after.see_all(objects);
        after.settle();
        assert_eq!(after.dump(), expected, "{name}");
        assert_eq!(after.writes(), writes, "{name}");
    });
}

#[test]
fn a_restarted_daemon_removes_what_went_meanwhile_but_not_before_every_list_is_in() {
    each_scenario(|name, objects, expected| {
        let mut daemon = installed(objects).restart();
        daemon.see(Event::Services(Vec::new()));
        daemon.see(Event::Node(None));
        assert_eq!(daemon.dump(), expected, "{name}");
        daemon.see(Event::Slices(Vec::new()));
        daemon.settle();
        daemon.assert_empty();
    });
}

#[test]
fn a_daemon_that_dies_between_two_writes_is_made_up_for() {
    each_scenario(|name, objects, expected| {
        for survived in 0..installed(objects).writes() {
            let mut dying = Daemon::start(Fake::new(sizes()));
            dying.fail(Some(Box::new(move |write| write > survived)));
            dying.see_all(objects);
            dying.fail(None);
            let mut next = dying.restart();
            next.see_all(objects);
            next.settle();
            assert_eq!(
                next.dump(),
                expected,
                "{name}, dead after {survived} writes"
            );
            next.see(Event::Services(Vec::new()));
            next.settle();
            next.assert_empty();
        }
    });
}

#[test]
fn failing_writes_are_repeated_until_they_succeed() {
    each_scenario(|name, objects, expected| {
        for period in 2..7 {
            let mut daemon = Daemon::start(Fake::new(sizes()));
            daemon.fail(Some(Box::new(move |write| write % period == 0)));
            daemon.see_all(objects);
            assert!(daemon.reconciler.behind_since().is_some());
            for _ in 0..200 {
                daemon.now += LATER;
                daemon.reconciler.round(daemon.now);
            }
            daemon.fail(None);
            daemon.settle();
            assert_eq!(
                daemon.dump(),
                expected,
                "{name}, one write in {period} fails"
            );
            assert_eq!(daemon.reconciler.behind_since(), None);

            daemon.fail(Some(Box::new(move |write| write % period == 0)));
            daemon.see(Event::Services(Vec::new()));
            for _ in 0..200 {
                daemon.now += LATER;
                daemon.reconciler.round(daemon.now);
            }
            daemon.fail(None);
            daemon.settle();
            daemon.assert_empty();
        }
    });
}
