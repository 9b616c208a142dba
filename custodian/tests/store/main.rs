//! The tables: one list of rules, kept by SQLite and by PostgreSQL, alone and with replicas that race.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test as tests do"
)]

mod alarms;
mod audit;
mod budgets;
mod custody;
mod fixture;
mod leases;
mod orders;
mod postgres;
#[path = "../support/postgres.rs"]
mod server;
mod sqlite;

use fixture::Place;

type Case<'a> = core::pin::Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Runs each case on a new SQLite file, as a test of its own, and all of them on PostgreSQL, each on a new database of one
/// cluster: to start a cluster takes a second.
macro_rules! cases {
    ($($module:ident: $($case:ident),+;)+) => {
        mod on_sqlite {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::$module::$case(crate::Place::sqlite().await).await;
                }
            )+)+
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn postgresql_keeps_the_same_rules() {
            let cluster = server::Cluster::start();
            $($(
                println!("case: {}", stringify!($case));
                // On the heap, and made in a function of its own: all of them at once are too much for the stack of a test.
                let case = || -> Case<'_> { Box::pin(async { $module::$case(Place::postgres(&cluster).await).await }) };
                case().await;
            )+)+
        }
    };
}

cases! {
    alarms:
        those_who_are_new_after_learning_are_told_of_once,
        the_same_alarm_keeps_quiet_for_a_while,
        a_tally_counts_once,
        tallies_that_race_are_all_counted,
        what_is_told_beside_uses_is_judged,
        a_budget_is_told_of_once_in_each_window,
        alarms_come_in_pages_of_their_key_store,
        a_principal_at_another_key_is_told_of_once,
        a_long_tally_counts_once_and_is_summed_up,
        numbers_of_boots_that_are_gone_are_forgotten,
        a_storm_is_told_of_once_an_hour,
        those_that_are_taken_badly_come_in_turn,
        what_waits_for_others_is_counted,
        one_replica_delivers_what_is_oldest,
        two_weeks_of_use_are_remembered;
    audit:
        the_newest_checkpoint_is_kept_and_the_first_contradiction,
        of_many_heads_the_newest_are_handed_over,
        of_checkpoints_that_race_the_newest_stays;
    budgets:
        what_is_left_is_granted_and_a_message_counts_once,
        windows_and_keys_are_counted_apart,
        counts_that_are_forgotten_never_come_back,
        debits_that_race_never_pass_the_limit;
    custody:
        a_key_store_is_enrolled_once,
        a_successor_waits_for_the_version_that_names_it,
        of_two_successors_that_one_comes_which_a_version_names,
        a_custodian_that_was_away_catches_up_with_manifests,
        blocks_and_successors_do_not_slip_past_each_other,
        other_successors_take_orders_with_them,
        policies_follow_each_other,
        a_share_is_provisional_until_its_version_is_held,
        of_too_many_provisional_shares_the_oldest_goes,
        of_too_many_shares_those_of_the_newest_generation_are_released,
        the_next_generation_may_come_and_the_old_one_go,
        old_shares_stay_until_the_new_one_is_here,
        a_version_follows_the_one_before_it,
        a_version_names_its_shares,
        results_show_once_their_version_is_committed,
        copies_are_kept_in_order,
        the_history_names_what_each_version_carried_out,
        of_versions_that_race_one_wins;
    orders:
        signatures_of_copies_are_gathered,
        a_command_waits_until_it_is_dealt_with,
        commands_that_changed_something_are_kept,
        too_many_commands_are_refused,
        an_overlay_replaces_the_one_it_was_judged_against,
        of_overlays_that_race_one_wins;
    leases:
        a_nonce_is_spent_once,
        a_release_is_decided_by_what_is_in_force,
        no_release_slips_past_a_block,
        a_message_changes_something_once,
        of_copies_of_a_message_that_race_one_counts,
        a_lease_ends,
        leases_have_a_bound,
        boots_have_a_bound_of_the_policy,
        records_come_in_pages_and_have_a_bound,
        releases_wait_for_approvals,
        a_setting_is_made_once;
}
