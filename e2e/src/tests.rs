//! The cluster tests: what only a real Kubernetes can show.

mod api;
mod bodies;
mod boundary;
mod children;
mod cold;
mod failures;
mod faults;
mod limits;
mod packaging;
mod rollouts;
mod runner;
mod scaling;
mod streams;
mod tls;

use futures::future::LocalBoxFuture;

use anyhow::Result;

use crate::scene::Scene;

pub(crate) use cold::{burst, phases, spread};
pub(crate) use faults::{activator_processes, kill, leader_process, wait_whole};
pub use runner::{Outcome, run};

/// One test.
pub(crate) struct Case {
    /// Its name, `area::what_must_hold`.
    name: &'static str,
    /// What it does.
    test: fn(Scene) -> LocalBoxFuture<'static, Result<()>>,
    /// Whether it disturbs others (it kills parts of Ebb, or measures), so that it runs while no other does.
    alone: bool,
}

/// Names a test beside its function, so that none can be written and forgotten.
macro_rules! cases {
    ($area:ident, together: [$($test:ident),* $(,)?], alone: [$($lone:ident),* $(,)?]) => {
        vec![
            $(Case { name: concat!(stringify!($area), "::", stringify!($test)), test: |scene| Box::pin($area::$test(scene)), alone: false },)*
            $(Case { name: concat!(stringify!($area), "::", stringify!($lone)), test: |scene| Box::pin($area::$lone(scene)), alone: true },)*
        ]
    };
}

/// All of them.
fn all() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(cases!(boundary, together: [no_request_is_lost_around_zero], alone: []));
    all.extend(cases!(scaling, together: [
        concurrency_is_followed, others_who_change_the_count_are_told_and_not_fought,
        an_external_apply_of_the_count_is_not_fought, up_down_up_linear, up_down_up_weighted,
        the_way_down_loses_nothing, kubectl_scale_sets_min, initial_pods_run_at_first,
    ], alone: [rps_is_followed]));
    all.extend(cases!(streams, together: [
        an_upgraded_connection_keeps_its_pod, one_that_is_not_counted_does_not, a_pod_that_says_that_it_is_busy_stays,
        http2_reaches_functions_at_zero,
    ], alone: []));
    all.extend(cases!(api, together: [
        refuses_what_is_wrong_in_the_rules_words, takes_what_is_right, explains_itself, shows_columns,
    ], alone: []));
    all.extend(cases!(cold, together: [
        first_request_from_zero_and_back, shared_port_chooses_by_host, a_readiness_probe_is_obeyed, min_pods_always_run,
    ], alone: [five_hundred_first_requests]));
    all.extend(cases!(bodies, together: [arrive_intact_at_a_function_at_zero], alone: []));
    all.extend(cases!(failures, together: [
        wrong_image, invalid_template, crashing_container, quota, unschedulable, missing_config_map, name_of_a_foreign_service,
    ], alone: []));
    all.extend(cases!(children, together: [
        are_five_and_go_with_the_function, deleted_ones_come_back, edited_ones_are_put_back,
    ], alone: []));
    all.extend(cases!(rollouts, together: [
        a_new_template_takes_over_without_a_failed_request, a_broken_template_does_not_take_over, an_old_template_again,
    ], alone: []));
    all.extend(cases!(faults, together: [
        function_deleted_with_requests_held, function_deleted_with_requests_in_flight,
    ], alone: [
        activator_deleted_during_a_cold_start, leader_killed_while_warm, leader_killed_during_a_cold_start, no_activator_leaves_the_way_open,
    ]));
    all.extend(cases!(tls, together: [
        a_new_secret_is_for_new_connections, a_secret_that_is_no_certificate_is_told, a_host_belongs_to_one_function,
        control_streams_have_tls,
    ], alone: []));
    all.extend(cases!(limits, together: [], alone: [no_two_requests_meet_in_a_pod]));
    all.extend(cases!(packaging, together: [
        pods_are_restricted_and_the_data_plane_has_no_token, metrics_are_the_documented_ones, rights_are_least,
    ], alone: []));
    all
}
