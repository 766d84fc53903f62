//! Rows that several tables of one process have in common.

use std::sync::Arc;

use tombolo_cluster::table::*;

use crate::common::*;

#[test]
fn what_two_tables_have_is_held_once_and_each_table_is_as_it_would_be_alone() {
    let commons = Commons::default();
    let (mut one, mut two, mut three) = (table(1), table(2), table(3));
    two.in_common(commons.clone());
    three.in_common(commons.clone());
    set(&mut one, "a", "x");
    exchange(&mut one, &mut two);
    exchange(&mut one, &mut three);
    let change = set(&mut one, "b", "y").encode().unwrap();
    for table in [&mut two, &mut three] {
        apply(table, &Change::decode(&change, 100).unwrap());
    }
    for name in ["a", "b"] {
        let of = |table: &Table| table.get(host(1), name).cloned().unwrap();
        assert!(Arc::ptr_eq(&of(&two), &of(&three)));
        assert!(!Arc::ptr_eq(&of(&one), &of(&two)), "only those that share");
    }
    let gone = remove(&mut one, "a");
    apply(&mut two, &gone);
    assert_eq!(rows_of(&two, host(1)), rows(&[("b", "y")]));
    assert_eq!(rows_of(&three, host(1)), rows(&[("a", "x"), ("b", "y")]));
    assert_eq!(commons.held(), (2, 2));
}

#[test]
fn what_no_table_holds_any_more_is_forgotten() {
    let commons = Commons::default();
    let mut one = table(1);
    one.in_common(commons.clone());
    for n in 0..20_000 {
        set(&mut one, "a", &format!("body {n}"));
    }
    let (names, bodies) = commons.held();
    assert!(names == 1 && bodies <= 2_000, "{names} names, {bodies} bodies");
}
