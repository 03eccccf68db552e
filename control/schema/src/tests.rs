//! What must hold for every object clients can send: nothing panics, and doing a thing twice is doing it once.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::arbitrary::Builder;
use crate::{
    Resource, apply, defaults, patch, resources, selector, strict, table, types, validation,
};

const NOW: &str = "2026-11-21T05:00:00Z";

fn object(res: &Resource, seed: u64) -> Value {
    let mut object = Builder(seed).object(types::of(res).expect("resources have types"), 0);
    object["apiVersion"] = json!(res.api_version());
    object["kind"] = json!(res.kind);
    object
}

/// Any JSON, of no type in particular, with the words of strategic merge among its keys.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z$]{0,6}".prop_map(Value::from),
        prop::sample::select(vec!["delete", "replace", "merge"]).prop_map(Value::from),
    ];
    let keys = vec![
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
        "containers",
        "finalizers",
        "metadata",
        "spec",
        "name",
        "env",
        "volumes",
        "managedFields",
        "labels",
        "status",
    ];
    leaf.prop_recursive(6, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(
                prop::sample::select(keys.clone()).prop_map(str::to_owned),
                inner,
                0..6
            )
            .prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    // Each case covers every kind.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_object_passes_through_all_steps(old in any::<u64>(), new in any::<u64>()) {
        for res in resources() {
            let (mut old, mut new) = (object(res, old), object(res, new));
            prop_assert_eq!(strict::check_types(res, &new), Ok(()));
            prop_assert_eq!(strict::unknown_fields(res, &new), Vec::<String>::new());
            defaults::drop_dependent(res, &mut new, &old);
            for object in [&mut old, &mut new] {
                strict::prune(res, object);
                defaults::apply(res, object);
                let once = object.clone();
                defaults::apply(res, object);
                prop_assert_eq!(&*object, &once);
            }
            let causes = [validation::create(res, &new), validation::update(res, &new, &old), validation::status_update(res, &new, &old)];
            let unchanged = validation::update(res, &old, &old);
            prop_assert!(unchanged.iter().all(|c| !c.message.contains("immutable")), "{unchanged:?}");
            validation::message(res, "web", &causes.concat());
            let now = NOW.parse().expect("a time");
            prop_assert_eq!(table::cells(res, &new, now).len(), table::columns(res).len());
            selector::fields(res, &new);
        }
    }

    #[test]
    fn owners_are_recorded_for_every_object(old in any::<u64>(), new in any::<u64>()) {
        for res in resources().iter().filter(|r| r.is_stored()) {
            let (old, mut new) = (object(res, old), object(res, new));
            apply::track(res, Some(&old), &mut new, "one", None, NOW);
            let before = new.clone();
            apply::track(res, Some(&before), &mut new, "two", None, NOW);
            prop_assert_eq!(&new, &before, "nothing changed, so nobody owns more");
            // Lists with a repeated or missing key are the only ones refused.
            if let Ok(once) = apply::apply(res, Some(&old), &new, "three", true, None, NOW) {
                let twice = apply::apply(res, Some(&once), &new, "three", false, None, NOW);
                prop_assert_eq!(twice, Ok(once));
            }
        }
    }

}

proptest! {
    #[test]
    fn patches_of_any_shape_are_merged_or_refused(seed in any::<u64>(), change in json_value()) {
        for kind in ["Pod", "Deployment", "Service"] {
            let res = resources().iter().find(|r| r.kind == kind).expect("a served kind");
            let object = object(res, seed);
            drop(patch::strategic(res, &object, &change));
            drop(patch::json(&object, &change));
            let mut merged = patch::merge(&object, &change);
            drop(strict::unknown_fields(res, &merged));
            if strict::check_types(res, &merged).is_ok() {
                strict::prune(res, &mut merged);
                defaults::apply(res, &mut merged);
                validation::update(res, &merged, &object);
                apply::track(res, Some(&object), &mut merged, "one", None, NOW);
            }
        }
    }

    #[test]
    fn selectors_of_any_text_are_parsed_or_refused(text in "[ a-z0-9=!,()<>/.\\\\-]{0,24}") {
        if let Ok(selector) = selector::LabelSelector::parse(&text) {
            prop_assert_eq!(selector::LabelSelector::parse(&selector.to_string()), Ok(selector));
        }
        drop(selector::FieldSelector::parse(&resources()[0], &text));
        drop(text.parse::<crate::quantity::Quantity>());
        strict::duplicate_fields(text.as_bytes());
    }
}
