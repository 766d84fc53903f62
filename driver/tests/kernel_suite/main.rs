//! One suite for every kernel: what the trait promises, shown for the fake and for the real one, each test of the latter
//! in a network namespace of its own. Then what only a real kernel can show: that others' things are left alone, that
//! damage is repaired, and where packets go.
//!
//! Needs root, and says so; nothing is skipped.

#![allow(
    clippy::unwrap_used,
    reason = "clippy's exception for tests does not cover functions that tests share"
)]

mod damage;
mod dhcp;
mod echo;
mod foreign;
mod groups;
mod hosts;
mod lab;
mod neighbours;
mod notice;
mod packets;
mod placed;
mod promises;
mod random;
mod routes;
mod segment;
mod uplinks;

/// Runs each function of [`promises`] on the fake and on the real kernel, with a chain FORWARD and without.
macro_rules! on_every_kernel {
    ($($name:ident),* $(,)?) => {
        mod fake {
            $(#[test] fn $name() {
                let kernel = tombolo::kernel::Fake::new();
                crate::lab::block_on(crate::promises::$name(kernel));
            })*
        }
        mod fake_without_forward {
            $(#[test] fn $name() {
                let kernel = tombolo::kernel::Fake::without_forward();
                crate::lab::block_on(crate::promises::$name(kernel));
            })*
        }
        mod real {
            $(#[test] fn $name() {
                crate::lab::in_namespace(async || {
                    crate::lab::make_forward();
                    crate::promises::$name(tombolo::kernel::Real::new()).await;
                });
            })*
        }
        mod real_without_forward {
            $(#[test] fn $name() {
                crate::lab::in_namespace(async || {
                    crate::promises::$name(tombolo::kernel::Real::new()).await;
                    assert!(!crate::lab::run("nft list tables").contains("filter"), "a chain was made for nobody");
                });
            })*
        }
    };
}

on_every_kernel!(
    a_new_host_has_nothing_of_ours,
    what_was_added_shows_and_what_was_removed_does_not,
    a_step_may_be_repeated,
    what_was_changed_shows,
    what_is_gone_may_be_removed,
    removing_a_bridge_takes_what_was_on_it,
    a_new_table_has_no_elements,
    a_table_is_loaded_with_its_elements_at_once,
    a_refused_step_changes_nothing,
    a_bridge_keeps_the_mtu_that_was_asked_for,
    a_whole_world_comes_and_goes,
    a_dropped_future_leaves_a_kernel_that_works,
    links_that_are_removed_together_go_with_what_is_on_them,
    a_look_beside_all_else_finds_the_same,
    many_steps_at_once_have_a_result_each,
);
