//! Whole rollouts, played against a model of the ReplicaSet controller: every step is carried out, pods become available
//! at once, later or never, and the sizes are written down.

use serde_json::{Value, json};

use super::*;
use crate::object::parse;

/// A Deployment with its sets, as the API would hold them.
struct World {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    clock: i64,
}

impl World {
    fn new(spec: Value) -> Self {
        let mut whole = json!({
            "replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "revisionHistoryLimit": 10,
            "progressDeadlineSeconds": 600, "template": template("one")
        });
        json_patch::merge(&mut whole, &spec);
        let deployment = parse(
            json!({"metadata": {"name": "web", "namespace": "a", "uid": "u", "generation": 1}, "spec": whole}),
        );
        Self {
            deployment,
            sets: Vec::new(),
            clock: 0,
        }
    }

    fn change(&mut self, spec: Value) {
        let mut whole = serde_json::to_value(&self.deployment).expect("JSON");
        json_patch::merge(&mut whole["spec"], &spec);
        self.deployment = parse(whole);
        self.deployment.metadata.generation = self
            .deployment
            .metadata
            .generation
            .map(|generation| generation + 1);
    }

    fn plan(&self) -> Plan {
        let running = |new: Option<&Arc<ReplicaSet>>| {
            let old = self.sets.iter().filter(|set| Some(*set) != new);
            old.filter_map(|set| set.status.as_ref())
                .any(|status| status.replicas > 0)
        };
        plan(
            &self.deployment,
            &self.sets,
            running,
            Timestamp::from_second(1_800_000_000 + self.clock).expect("in range"),
        )
    }

    /// Carries out one plan; answers whether anything changed.
    fn step(&mut self) -> bool {
        self.clock += 1;
        let plan = self.plan();
        let moved = !plan.steps.is_empty() || self.deployment.status.as_ref() != Some(&plan.status);
        for step in plan.steps {
            self.carry_out(step);
        }
        self.deployment.status = Some(plan.status);
        moved
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Create(mut set) => {
                set.metadata.creation_timestamp = Some(crate::object::time(
                    Timestamp::from_second(1_800_000_000 + self.clock).expect("in range"),
                ));
                self.sets.push(Arc::new(*set));
            }
            Step::Update(set) => self.replace(*set),
            Step::Scale { set, to } => self.replace(resized(&self.deployment, &set, to)),
            Step::Delete(set) => self.sets.retain(|known| name(&**known) != name(&*set)),
            Step::Revise(revision) => {
                let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                annotations.insert(REVISION.to_owned(), revision);
            }
        }
    }

    fn replace(&mut self, set: ReplicaSet) {
        let place = self
            .sets
            .iter_mut()
            .find(|known| name(&***known) == name(&set))
            .expect("the set exists");
        *place = Arc::new(set);
    }

    /// The ReplicaSet controller and the nodes: every set gets its pods; those of `broken` never become available.
    fn run_pods(&mut self, broken: Option<&str>) {
        for set in &mut self.sets {
            let image = serde_json::to_value(&**set).expect("JSON")["spec"]["template"]["spec"]["containers"][0]["image"]
                .as_str()
                .map(str::to_owned);
            let healthy = if image.as_deref() == broken {
                0
            } else {
                size(set)
            };
            let mut updated = ReplicaSet::clone(set);
            updated.status = Some(parse(json!({
                "replicas": size(set), "readyReplicas": healthy, "availableReplicas": healthy
            })));
            *set = Arc::new(updated);
        }
    }

    /// Sizes by image.
    fn sizes(&self) -> Vec<(String, i32)> {
        let image = |set: &ReplicaSet| {
            let spec = set.spec.as_ref()?.template.as_ref()?.spec.as_ref()?;
            spec.containers[0].image.clone()
        };
        let mut sizes: Vec<_> = self
            .sets
            .iter()
            .map(|set| (image(set).unwrap_or_default(), size(set)))
            .collect();
        sizes.sort();
        sizes
    }

    fn settle(&mut self, broken: Option<&str>) {
        for _ in 0..100 {
            let moved = self.step();
            self.run_pods(broken);
            if !moved {
                return;
            }
        }
        panic!("never settles: {:?}", self.sizes());
    }
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn sizes(expected: &[(&str, i32)]) -> Vec<(String, i32)> {
    expected
        .iter()
        .map(|(image, size)| ((*image).to_owned(), *size))
        .collect()
}

#[test]
fn a_first_rollout_makes_one_set_of_full_size() {
    let mut world = World::new(json!({}));
    assert!(matches!(&world.plan().steps[..], [Step::Create(set)] if size(set) == 3));
    world.settle(None);
    assert_eq!(world.sizes(), sizes(&[("one", 3)]));
    assert_eq!(annotation(&world.deployment, REVISION), Some("1"));
    assert!(status::complete(&world.deployment, &world.plan().status));
}

#[test]
fn a_rolling_update_stays_within_its_slack() {
    let mut world = World::new(json!({"replicas": 10}));
    world.settle(None);
    world.change(json!({"template": template("two")}));
    for _ in 0..50 {
        world.step();
        let total: i32 = world.sets.iter().map(|set| size(set)).sum();
        let available: i32 = world
            .sets
            .iter()
            .map(|set| scaling::available(set).min(size(set)))
            .sum();
        assert!(total <= 13, "{:?}", world.sizes());
        assert!(available >= 8, "{:?}", world.sizes());
        world.run_pods(None);
    }
    assert_eq!(world.sizes(), sizes(&[("one", 0), ("two", 10)]));
    assert_eq!(annotation(&world.deployment, REVISION), Some("2"));
}

#[test]
fn a_broken_update_stops_half_way_and_can_be_undone() {
    let mut world = World::new(json!({"replicas": 4}));
    world.settle(None);
    world.change(json!({"template": template("bad")}));
    world.settle(Some("bad"));
    assert_eq!(world.sizes(), sizes(&[("bad", 2), ("one", 3)]));
    world.change(json!({"template": template("one")}));
    world.settle(Some("bad"));
    assert_eq!(world.sizes(), sizes(&[("bad", 0), ("one", 4)]));
    assert_eq!(annotation(&world.deployment, REVISION), Some("3"));
}

#[test]
fn recreate_stops_everything_first() {
    let mut world = World::new(json!({"strategy": {"type": "Recreate"}}));
    world.settle(None);
    world.change(json!({"template": template("two")}));
    world.step();
    assert_eq!(world.sizes(), sizes(&[("one", 0)]));
    world.step();
    assert_eq!(world.sizes(), sizes(&[("one", 0)]), "old pods still run");
    world.run_pods(None);
    world.settle(None);
    assert_eq!(world.sizes(), sizes(&[("one", 0), ("two", 3)]));
}

#[test]
fn a_paused_deployment_scales_and_does_not_roll() {
    let mut world = World::new(json!({}));
    world.settle(None);
    world.change(json!({"paused": true, "replicas": 5, "template": template("two")}));
    world.settle(None);
    assert_eq!(world.sizes(), sizes(&[("one", 5)]));
    world.change(json!({"paused": false}));
    world.settle(None);
    assert_eq!(world.sizes(), sizes(&[("one", 0), ("two", 5)]));
}

#[test]
fn recreate_with_a_new_size_in_the_middle_of_a_roll_goes_on() {
    let mut world = World::new(json!({"replicas": 4}));
    world.settle(None);
    world.change(json!({"template": template("bad")}));
    world.settle(Some("bad"));
    world.change(json!({"replicas": 2, "strategy": {"type": "Recreate", "rollingUpdate": null}, "template": template("two")}));
    world.settle(Some("bad"));
    assert_eq!(world.sizes(), sizes(&[("bad", 0), ("one", 0), ("two", 2)]));
}

#[test]
fn scaling_to_zero_and_back_keeps_the_set() {
    let mut world = World::new(json!({}));
    world.settle(None);
    for replicas in [0, 4, 1] {
        world.change(json!({"replicas": replicas}));
        world.settle(None);
        assert_eq!(world.sizes(), sizes(&[("one", replicas)]));
    }
}

#[test]
fn old_revisions_beyond_the_limit_go() {
    let mut world = World::new(json!({"revisionHistoryLimit": 2}));
    for image in ["one", "two", "three", "four", "five"] {
        world.change(json!({"template": template(image)}));
        world.settle(None);
    }
    assert_eq!(
        world.sizes(),
        sizes(&[("five", 3), ("four", 0), ("three", 0)])
    );
}

#[test]
fn a_deployment_on_its_way_out_only_reports() {
    let mut world = World::new(json!({}));
    world.deployment.metadata.deletion_timestamp = Some(crate::object::time(Timestamp::UNIX_EPOCH));
    assert!(world.plan().steps.is_empty());
}
