//! Many routes: what a request costs among them, how soon a change is served, and whether clients notice changes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::networking::v1::Ingress;
use kube::Api;
use serde_json::json;

use super::load;
use super::paced;
use super::peers;
use super::place::{Machine, ingress, status};
use super::process::Process;
use crate::report::{Cell, Figure, Table};

const PATHS: [&str; 5] = ["/", "/api", "/api/v1", "/static", "/admin"];
const ONE: u16 = 8200;
const MANY: u16 = 8210;

struct Scale {
    hosts: usize,
    rounds: usize,
    length: Duration,
    changes: u32,
}

const FULL: Scale = Scale {
    hosts: 10_000,
    rounds: 7,
    length: Duration::from_secs(2),
    changes: 200,
};

const QUICK: Scale = Scale {
    hosts: 500,
    rounds: 1,
    length: Duration::from_secs(1),
    changes: 20,
};

/// A rate at which no gateway is busy.
const RATE: f64 = 2000.0;
/// Changes a second.
const CHANGES: u32 = 100;

pub(crate) fn measure(machine: &Machine, quick: bool) -> Result<Vec<Table>> {
    let scale = if quick { QUICK } else { FULL };
    let api: Api<Ingress> = machine.api();
    let many = (0..scale.hosts)
        .map(|number| ingress(&format!("many-{number}"), "many", &host(number), &PATHS))
        .collect::<Result<Vec<_>>>()?;
    machine.create_all(api.clone(), many)?;
    machine.create_all(
        api.clone(),
        vec![ingress("one-0", "one", &host(0), &PATHS)?],
    )?;
    let one = start(machine, "one", ONE)?;
    let many = start(machine, "many", MANY)?;
    Ok(vec![
        costs(machine, &scale, &one, &many)?,
        changes(machine, &scale, &api)?,
    ])
}

fn host(number: usize) -> String {
    format!("host-{number}.bench.example")
}

fn start(machine: &Machine, class: &str, port: u16) -> Result<Process> {
    let controller = format!("portolan.dev/{class}");
    let command = peers::gateway(&machine.files, &controller, port, &[]);
    let mut process = Process::start(command, class, &machine.files.directory)?;
    process.wait(|| status(port, &host(0), "/").is_some_and(|status| status == 200))?;
    Ok(process)
}

fn costs(machine: &Machine, scale: &Scale, one: &Process, many: &Process) -> Result<Table> {
    let mut table = Table::new(
        "What a request costs among many routes",
        format!(
            "`measure l7 routes`: HTTP/1.1, hosts and paths at random; {} rounds in which the two take turns; median \
             (minimum–maximum).",
            scale.rounds
        ),
        &[
            "hosts x paths",
            "processor time a request, µs",
            "to one host's",
        ],
    );
    let scripts = [script(machine, 1)?, script(machine, scale.hosts)?];
    let (mut few, mut lots) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        for (process, port, script, samples) in [
            (one, ONE, &scripts[0], &mut few),
            (many, MANY, &scripts[1], &mut lots),
        ] {
            let url = format!("http://127.0.0.1:{port}/");
            samples.push(load::ask_by_script(process, &url, script, scale.length)?.micros());
        }
    }
    let ratios = [Figure::ratios(&few, &few), Figure::ratios(&lots, &few)];
    for ((hosts, samples), ratio) in [(1, few), (scale.hosts, lots)].into_iter().zip(ratios) {
        table.add(vec![
            format!("{hosts} x {}", PATHS.len()).into(),
            Cell::Figure(Figure::of(samples), 1),
            Cell::Figure(ratio, 2),
        ]);
    }
    Ok(table)
}

/// What makes wrk ask for one of so many hosts, made beforehand: the making must not be what is measured.
fn script(machine: &Machine, hosts: usize) -> Result<PathBuf> {
    let path = machine.files.directory.join(format!("{hosts}.lua"));
    let paths = PATHS.map(|path| format!("\"{path}\"")).join(",");
    let text = format!(
        "local paths = {{{paths}}}\nlocal requests = {{}}\n\
         function init()\n  math.randomseed(1)\n  for i = 1, 20000 do\n    \
         requests[i] = \"GET \" .. paths[math.random(#paths)] .. \" HTTP/1.1\\r\\nHost: host-\" .. \
         math.random(0, {} - 1) .. \".bench.example\\r\\n\\r\\n\"\n  end\nend\n\
         local at = 0\nfunction request()\n  at = at % #requests + 1\n  return requests[at]\nend\n",
        hosts
    );
    fs::write(&path, text)?;
    Ok(path)
}

fn changes(machine: &Machine, scale: &Scale, api: &Api<Ingress>) -> Result<Table> {
    let mut served = Vec::new();
    for number in 0..scale.changes {
        let (host, path) = (host(number as usize), format!("/changed-{number}"));
        let begun = Instant::now();
        machine.patch(api, &format!("many-{number}"), &changed(&host, &path))?;
        // The old rule led every path to the backend.
        while status(MANY, &host, "/") != Some(404) {
            ensure!(
                begun.elapsed() < Duration::from_secs(30),
                "a change was not served"
            );
        }
        served.push(begun.elapsed().as_secs_f64() * 1e3);
        let found = status(MANY, &host, &path);
        ensure!(found == Some(200), "the new rule answers {found:?}");
    }
    let served = Figure::of(served);
    let quiet = paced::ask(ONE, &host(0), "/", RATE, scale.length * 3)?;
    let quiet_many = paced::ask(MANY, &untouched(scale), "/", RATE, scale.length * 3)?;
    let busy = while_changing(machine, api, scale)?;
    let mut table = Table::new(
        "Changes of rules",
        format!(
            "`measure l7 routes`: {} Ingresses with {} paths. An Ingress changes: from the write to the API to the first \
             answer by the new rule, {} times. Then {RATE:.0} requests/s from when they are due, quiet and while {CHANGES} \
             Ingresses a second change.",
            scale.hosts,
            PATHS.len(),
            scale.changes
        ),
        &["figure", "p50", "p99"],
    );
    for (name, figure, decimals) in [
        ("a change is served after, ms", &served, 1),
        ("a request with one Ingress takes, µs", &quiet, 0),
        ("a request takes, µs", &quiet_many, 0),
        ("a request while rules change takes, µs", &busy, 0),
    ] {
        table.add(vec![
            name.into(),
            Cell::Number(figure.median(), decimals),
            Cell::Number(figure.quantile(0.99), decimals),
        ]);
    }
    Ok(table)
}

/// A host that no change concerns.
fn untouched(scale: &Scale) -> String {
    host(scale.hosts - 1)
}

fn changed(host: &str, path: &str) -> serde_json::Value {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let path = json!({"path": path, "pathType": "Prefix", "backend": backend});
    json!({"spec": {"rules": [{"host": host, "http": {"paths": [path]}}]}})
}

/// How long requests take while Ingresses change.
fn while_changing(machine: &Machine, api: &Api<Ingress>, scale: &Scale) -> Result<Figure> {
    let (length, asked) = (scale.length * 3, untouched(scale));
    std::thread::scope(|scope| {
        let client = scope.spawn(move || paced::ask(MANY, &asked, "/", RATE, length));
        let begun = Instant::now();
        let mut number = 0;
        while !client.is_finished() {
            let due = begun + Duration::from_secs(1) * number / CHANGES;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let target = number as usize % (scale.hosts - 1);
            let path = format!("/again-{number}");
            let patch = changed(&host(target), &path);
            machine.patch(api, &format!("many-{target}"), &patch)?;
            number += 1;
        }
        client
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
