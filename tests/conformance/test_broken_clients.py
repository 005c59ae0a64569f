"""The conformance suite is tested too: it must fail for each of these broken clients, and only where they are broken.

Several are run by one pytest inside this one: starting a process for each would take most of the time.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import QueueClient
from qbridge_memory import MemoryClient
from support.broken import (
    calls,
    claims,
    delayed,
    describing,
    details,
    diagnoses,
    history,
    imports,
    keeping,
    leases,
    letters,
    memory,
    outages,
    pausing,
    promises,
    soon,
    waiting,
)
from support.brokers import start_new
from support.estimates import EstimatingClient
from support.leases.broker import LeaseBroker
from support.leases.client import LeaseClient
from support.lists import ListClient
from support.suite_runs import Outcome, run_suite, run_suites

QUICK = {
    "test_g13_a_dead_letter_explains_itself",
    "test_g5_attempts_travel_with_the_message",
    "test_g5_the_body_arrives_byte_for_byte",
    "test_g8_handing_back_is_free",
    "test_receive_returns_at_most_what_was_asked_for",
}
"""Run on every client: what is not broken must pass."""

COUNTS = {"test_counts_show_what_was_done", "test_g13_listing_neither_consumes_nor_reorders"}
LOOKS = {"test_the_broker_is_looked_at_as_far_as_that_is_claimed"}
SOON = {"test_g1_what_is_published_soon_is_there_when_its_future_ends"}
BROKEN: dict[type[MemoryClient], set[str]] = {
    memory.ForgetsTheOrder: {"test_g18_arguments_in_the_wrong_order_are_named"},
    memory.LosesOnReject: {
        "test_g12_a_rejected_message_is_in_the_dead_letter_queue",
        "test_g13_a_dead_letter_explains_itself",
        "test_g13_listing_neither_consumes_nor_reorders",
        "test_the_first_settlement_counts",
    },
    memory.RedeliversAfterAck: {
        "test_g4_an_acknowledged_message_is_gone",
        "test_an_ack_may_come_from_any_thread",
        "test_the_first_settlement_counts",
    },
    memory.CountsHandBacks: {"test_g8_handing_back_is_free", "test_g5_handing_back_a_retried_message_keeps_its_count"},
    memory.ForgetsAttempts: {
        "test_g5_attempts_travel_with_the_message",
        "test_g5_handing_back_a_retried_message_keeps_its_count",
    },
    memory.RewritesBodyOnRetry: {"test_g5_attempts_travel_with_the_message"},
    memory.LeaksForeignError: {"test_g1_publishing_to_a_missing_queue_is_an_error"},
    memory.LeaksOSError: {"test_g1_publishing_to_a_missing_queue_is_an_error"},
    memory.DropsUnroutable: {"test_g1_publishing_to_a_missing_queue_is_an_error"},
    memory.SwallowsUnknownOptions: {"test_g18_an_unknown_option_is_an_error_that_names_the_known_ones"},
    memory.LeavesReceiveBlocked: {"test_disconnect_ends_a_blocked_receive"},
    memory.IgnoresDelay: {
        "test_g4_a_delayed_message_is_held_by_the_broker",
        "test_g7_a_long_delay_does_not_hold_up_a_short_one",
    },
    memory.IgnoresRetryDelay: {"test_g7_a_retry_can_be_delayed"},
    memory.AcceptsUnclaimedDelay: {"test_g4_a_delayed_message_is_held_by_the_broker", "test_g7_a_retry_can_be_delayed"},
    memory.ListsNothing: {"test_g13_a_dead_letter_explains_itself"},
    memory.ConsumesOnBrowse: {"test_g13_listing_neither_consumes_nor_reorders"},
    memory.ReordersOnBrowse: {"test_g13_listing_neither_consumes_nor_reorders"},
    memory.ReplayLosesLetters: {"test_a_letter_without_a_way_back_stays"},
    memory.ReturnsTooMany: {"test_receive_returns_at_most_what_was_asked_for"},
    memory.AcksFromItsThreadOnly: {"test_an_ack_may_come_from_any_thread"},
    memory.DropsHeaders: {
        "test_headers_and_message_id_arrive",
        "test_g13_a_dead_letter_explains_itself",
        "test_g12_a_rejected_message_is_in_the_dead_letter_queue",
        "test_g5_attempts_travel_with_the_message",
        "test_g8_handing_back_is_free",
    },
    memory.LeavesThread: {"test_disconnect_leaves_no_thread"},
    memory.SettlesTwice: {"test_the_first_settlement_counts"},
    memory.WorksAfterDisconnect: {"test_g18_calls_on_a_disconnected_client_say_so"},
    letters.NamesNoLetters: {
        "test_letters_are_named_as_far_as_that_is_claimed",
        "test_g13_letters_are_listed_page_by_page",
        "test_g13_chosen_letters_are_sent_back",
    },
    letters.HidesItsLetters: {"test_letters_are_named_as_far_as_that_is_claimed"},
    letters.NamesLettersAnew: {"test_g13_letters_are_listed_page_by_page"},
    letters.ForgetsWhereItWas: {"test_a_listing_behind_a_letter_that_is_gone"},
    letters.ReplaysTheOldest: {"test_g13_chosen_letters_are_sent_back"},
    letters.TurnsWhatStays: {"test_g13_chosen_letters_are_sent_back", "test_g13_chosen_letters_are_deleted"},
    letters.CountsNoReplays: {"test_replays_are_counted"},
    letters.ForgetsReplaysOnRetry: {"test_replays_are_counted"},
    letters.KeepsTheIdOfAnEditedLetter: {"test_a_letter_is_sent_back_edited"},
    letters.LosesTheTaskOfAnEditedLetter: {"test_a_letter_is_sent_back_edited"},
    letters.SaysNothingOfWhatIsGone: {"test_letters_that_are_gone_do_not_keep_the_others"},
    letters.StopsAtWhatIsGone: {"test_letters_that_are_gone_do_not_keep_the_others"},
    diagnoses.ClaimsToLook: LOOKS,
    diagnoses.HidesThatItLooks: LOOKS,
    diagnoses.CreatesToLook: LOOKS,
    diagnoses.TakesToLook: LOOKS,
    diagnoses.RaisesWhatItFinds: LOOKS,
    diagnoses.SaysNothingOfWhatIsMissing: LOOKS,
    diagnoses.LooksAtAnything: {"test_a_look_at_what_is_no_queue_is_refused"},
    letters.RemovesChosenFirst: {"test_a_chosen_letter_that_cannot_go_stays_in_its_place"},
    describing.TellsUnclaimed: {
        "test_a_description_tells_what_is_claimed",
        "test_stats_tell_what_is_claimed",
        "test_queues_are_listed_as_far_as_that_is_claimed",
    },
    describing.ClaimsWhatItDoesNotTell: {
        "test_a_description_tells_what_is_claimed",
        "test_the_oldest_ready_message_has_an_age",
    },
    describing.TellsTooMuch: {"test_stats_tell_what_is_claimed"},
    describing.TellsInDescriptionsAlone: {
        "test_stats_tell_what_is_claimed",
        "test_letters_are_counted",
        "test_the_oldest_ready_message_has_an_age",
        "test_consumers_are_counted",
    },
    describing.TellsUnclaimedInStats: {"test_stats_tell_what_is_claimed"},
    describing.CountsLettersOnce: {"test_letters_are_counted"},
    describing.CountsWhatIsReady: {"test_counting_alone_counts_the_same"},
    describing.CreatesToCountAlone: {"test_of_a_missing_queue_nothing_is_told"},
    describing.CountsWithoutPauses: {
        "test_counting_alone_counts_the_same",
        "test_queues_are_paused_as_far_as_that_is_claimed",
    },
    describing.CreatesToDescribe: {"test_of_a_missing_queue_nothing_is_told"},
    describing.GuessesTheDeadLetterQueue: {
        "test_letters_are_counted",
        "test_of_a_missing_queue_nothing_is_told",
    },
    describing.AgesInMilliseconds: {"test_the_oldest_ready_message_has_an_age"},
    describing.CountsFromTheFirst: {"test_the_oldest_ready_message_has_an_age"},
    describing.CountsTheDead: {"test_consumers_are_counted"},
    describing.CountsWhoLooks: {"test_consumers_are_counted"},
    describing.CountsItsOwn: {"test_what_all_clients_hold_is_counted"},
    describing.RatesInMinutes: {"test_rates_are_told"},
    describing.ListsSideQueues: {"test_queues_are_listed_as_far_as_that_is_claimed"},
    describing.ForgetsPairs: {"test_queues_are_listed_as_far_as_that_is_claimed"},
    describing.DescribesFromMemory: {"test_g18_nobody_is_told_anything_without_a_connection"},
    history.HidesWhenItWasSent: {"test_g13_a_message_tells_of_its_past_on_all_its_ways"},
    history.HidesItsHistory: {"test_g13_a_message_tells_of_its_past_on_all_its_ways"},
    history.DatesCopiesAnew: {"test_g13_a_message_tells_of_its_past_on_all_its_ways"},
    history.TellsSeconds: {"test_it_is_known_when_a_message_was_sent_and_when_it_is_due"},
    history.ForgetsWhenItIsDue: {
        "test_g13_a_message_tells_of_its_past_on_all_its_ways",
        "test_it_is_known_when_a_message_was_sent_and_when_it_is_due",
    },
    history.ForgetsAttemptsOnReplay: {"test_g13_a_message_tells_of_its_past_on_all_its_ways"},
    history.DatesLettersAnew: {"test_g13_a_message_tells_of_its_past_on_all_its_ways"},
    history.ForgetsPostponements: {"test_g13_a_message_tells_of_its_past_on_all_its_ways"},
    imports.HidesItsImports: {"test_letters_are_imported_as_far_as_that_is_claimed"},
    imports.ImportsNothing: {
        "test_letters_are_imported_as_far_as_that_is_claimed",
        "test_g13_an_imported_letter_is_the_original",
    },
    imports.ImportsBodies: {
        "test_g13_an_imported_letter_is_the_original",
        "test_letters_that_are_listed_can_be_imported",
    },
    imports.ForgetsMessageIdsOnImport: {"test_g13_an_imported_letter_is_the_original"},
    imports.ExplainsWhatNobodyKnows: {"test_a_letter_that_says_nothing_says_nothing_after_an_import"},
    imports.ImportsWhatItCan: {"test_g18_what_cannot_be_imported_is_refused"},
    memory.ForgetsIdsOfLetters: {"test_a_letter_keeps_its_id_and_forgets_its_crashes"},
    memory.DropsDuplicates: {"test_a_message_id_is_no_key"},
    memory.LowersHeaderNames: {"test_g13_odd_headers_and_ids_are_kept_all_the_way"},
    memory.CutsHeaderLines: {"test_g13_odd_headers_and_ids_are_kept_all_the_way"},
    memory.CutsIds: {"test_g13_odd_headers_and_ids_are_kept_all_the_way"},
    memory.KeepsAFewHeaders: {"test_many_headers_are_kept"},
    memory.TrustsItsCaller: {"test_what_was_published_is_a_copy"},
    memory.CleansNames: {"test_odd_names_are_names_of_queues_of_their_own"},
    memory.LosesEmptyBodies: {"test_many_headers_are_kept"},
    memory.TrustsMessages: {"test_publish_many_takes_any_iterable_and_refuses_a_bad_message"},
    memory.DeliversEarly: {"test_g7_a_delay_ends_on_time_without_the_client_that_asked_for_it"},
    memory.DeliversLate: {"test_g7_a_delay_ends_on_time_without_the_client_that_asked_for_it"},
    memory.ShortensDelays: {"test_g18_a_delay_over_the_longest_is_refused"},
    memory.PurgesDelayed: {"test_purge_leaves_what_is_delayed"},
    memory.DelaysInMemory: {"test_g7_a_delay_ends_on_time_without_the_client_that_asked_for_it"},
    memory.DelaysForNobody: {"test_g1_a_delay_for_a_missing_queue_is_an_error"},
    memory.ForgetsOnHandBack: {"test_g8_a_hand_back_keeps_what_was_counted"},
    memory.HandsBackTheFirst: {"test_g8_several_are_handed_back_together"},
    memory.HandsBackWhatIsSettled: {"test_g8_several_are_handed_back_together"},
    memory.CountsCrashesOnHandBack: {"test_g8_handing_back_is_free"},
    memory.ForgetsRedelivery: {"test_what_a_delivery_says_of_its_message"},
    memory.ForgetsTheTask: {
        "test_g8_a_hand_back_keeps_what_was_counted",
        "test_g13_a_dead_letter_explains_itself",
    },
    memory.SettlesItsLikes: {"test_settling_touches_one_message_only"},
    memory.AcksOldDeliveriesInSilence: {"test_g2_a_delivery_of_the_connection_before_is_not_settled_in_silence"},
    memory.WaitsForMore: {"test_receive_returns_with_the_first_message"},
    memory.NeverWaits: {"test_receive_waits_as_long_as_it_was_told"},
    memory.OneCallAtATime: {"test_a_client_works_while_it_receives"},
    memory.ReadsLate: {"test_what_is_ready_is_received_without_waiting", "test_a_letter_without_a_way_back_stays"},
    memory.ForgetsThePair: {"test_connecting_again_remembers_the_pairs"},
    memory.ForgetsThePairAtTheEnd: {"test_connecting_again_remembers_the_pairs"},
    memory.KeepsTheFirstPair: {"test_another_pair_takes_the_place_of_the_first"},
    memory.CreatesTheLettersQueueLate: {"test_declaring_creates_the_dead_letter_queue"},
    memory.EmptiesOnDeclare: {"test_declare_is_idempotent_and_keeps_messages"},
    memory.PurgeCreates: {"test_purging_a_missing_or_empty_queue_deletes_nothing"},
    memory.RefusesToPurgeNothing: {"test_purging_a_missing_or_empty_queue_deletes_nothing"},
    memory.PurgesWhatIsHeld: {
        "test_g13_letters_that_somebody_holds_are_left_alone",
        "test_purge_deletes_what_is_ready_only",
    },
    memory.ReplaysToTheEnd: {"test_g13_what_replay_cannot_send_back_stays_in_its_place"},
    memory.ReplaysForEver: {"test_replay_takes_no_more_than_were_there"},
    memory.CountsWhatIsHeld: {"test_g13_letters_that_somebody_holds_are_left_alone"},
    memory.ReplaysWhatIsHeld: {"test_g13_letters_that_somebody_holds_are_left_alone"},
    memory.ReplaysWithHistory: {"test_a_letter_keeps_its_id_and_forgets_its_crashes"},
    memory.ReplaysWithoutIds: {"test_a_letter_keeps_its_id_and_forgets_its_crashes"},
    memory.ListsAll: {"test_listing_stops_at_a_hundred_unless_told"},
    memory.ClaimsSharing: {"test_g2_an_unsettled_delivery_comes_back_after_its_process_was_killed"},
    memory.SeesCrashesUnclaimed: {"test_what_a_delivery_says_of_its_message"},
    memory.WaitsForAConnection: {"test_calls_before_connect_say_so"},
    calls.ConnectsAnew: {"test_connecting_twice_leaves_deliveries_alone"},
    calls.StaysAtTheEnd: {"test_connecting_twice_leaves_deliveries_alone"},
    calls.IgnoresTheURL: {"test_g18_an_unknown_option_in_the_url_is_an_error_too"},
    calls.WorksInAForkedChild: {"test_a_forked_child_leaves_its_parents_connection_alone"},
    calls.RejectsOneAtATime: {"test_a_client_works_while_it_receives"},
    calls.MixesThreads: {"test_g2_deliveries_are_rejected_from_many_threads_and_once"},
    calls.CopiesTwice: {"test_g2_deliveries_are_rejected_from_many_threads_and_once"},
    calls.LooksNowAndThen: {"test_a_waiting_receive_gets_a_new_message"},
    calls.AlwaysWaits: {"test_an_empty_queue_gives_nothing"},
    calls.FillsUpFromOneQueue: {"test_of_each_queue_at_most_as_many_as_wanted_are_received"},
    calls.WaitsForTheFirstQueue: {"test_a_message_ends_the_wait_for_several_queues"},
    calls.SleepsThroughAWake: {
        "test_several_threads_wait_for_queues_at_once",
        "test_the_wait_for_several_queues_can_be_ended",
    },
    calls.HoldsToItsPrefetch: {"test_what_is_ready_is_received_beyond_the_prefetch"},
    calls.OneWaitForSeveralQueues: {"test_several_threads_wait_for_queues_at_once"},
    calls.WaitsHalfASecond: {"test_g7_a_delay_ends_on_time_without_the_client_that_asked_for_it"},
    calls.ReadsTooFarAhead: {"test_a_subscribed_client_reads_ahead_within_its_prefetch"},
    calls.SubscribesOnce: {"test_a_subscribed_client_reads_ahead_within_its_prefetch"},
    calls.EndsForGood: {"test_a_subscribed_client_reads_ahead_within_its_prefetch"},
    calls.CreatesToCount: {"test_stats_of_a_missing_queue_are_zero"},
    calls.PurgesAPage: {"test_g1_all_messages_of_publish_many_are_there_on_return"},
    calls.DeletesToPurge: {"test_purge_deletes_what_is_ready_only"},
    calls.DelaysTwiceAsLong: {"test_g7_a_delay_ends_on_time_without_the_client_that_asked_for_it"},
    calls.HoldsNoLongDelay: {"test_g18_a_delay_over_the_longest_is_refused"},
    calls.ReleasesToConsumers: {"test_what_is_due_is_counted_as_ready"},
    calls.StopsAtAThousand: {"test_g1_all_messages_of_publish_many_are_there_on_return"},
    calls.ClaimsCrashesAlone: {"test_what_is_claimed_of_sharing_holds"},
    calls.ClaimsDurableAlone: {"test_what_is_claimed_of_sharing_holds"},
    calls.CountsCrashesOnReturn: {"test_what_a_delivery_says_of_its_message"},
    calls.RefusesToReplayNothing: {"test_replay_of_nothing_is_zero"},
    keeping.TrustsItsCallerWithMany: {"test_what_was_published_is_a_copy"},
    keeping.TrustsItsConsumer: {"test_what_was_published_is_a_copy"},
    keeping.TakesAnySize: {"test_g19_a_body_over_the_limit_is_refused"},
    keeping.FillsTheLimit: {"test_g19_a_body_over_the_limit_is_refused"},
    keeping.CutsBodies: {"test_g19_a_body_over_the_limit_is_refused"},
    keeping.LogsBodies: {"test_g17_bodies_are_not_logged"},
    keeping.DeliversArrays: {"test_what_a_delivery_says_of_its_message"},
    keeping.DelaysBodies: {"test_g7_a_delay_ends_on_time_without_the_client_that_asked_for_it"},
    keeping.KeepsHeadersItKnows: {"test_g8_a_hand_back_keeps_what_was_counted"},
    keeping.CutsTracebacks: {
        "test_g19_the_largest_body_can_be_settled_in_every_way",
        "test_g19_the_largest_header_can_be_settled_in_every_way",
    },
    keeping.FailsFirstNow: {"test_a_rejection_without_a_failure_is_explained_too"},
    keeping.SendsLettersElsewhere: {"test_g12_a_dead_letter_goes_to_its_queue_at_once_whatever_it_is_given"},
    keeping.DelaysLetters: {"test_g12_a_dead_letter_goes_to_its_queue_at_once_whatever_it_is_given"},
    keeping.ListsText: {"test_g13_listing_neither_consumes_nor_reorders"},
    keeping.CreatesToList: {"test_listing_an_empty_or_missing_queue_gives_nothing"},
    keeping.ReplaysAPage: {"test_g13_all_letters_are_replayed"},
    keeping.ReplaysAsRedelivered: {"test_g13_replay_sends_letters_back_with_counters_reset"},
    delayed.PurgesNothingDelayed: {
        "test_what_is_delayed_can_be_purged",
        "test_a_place_in_the_listing_outlasts_its_message",
    },
    delayed.PurgesReadyToo: {"test_what_is_delayed_can_be_purged"},
    delayed.PurgesUnclaimed: {"test_what_is_delayed_can_be_purged"},
    delayed.PurgesItsOwn: {"test_what_is_delayed_can_be_purged"},
    delayed.PurgeCreatesToo: {"test_purging_what_is_delayed_of_a_missing_queue_deletes_nothing"},
    delayed.ListsUnclaimed: {"test_what_cannot_be_listed_is_not_released"},
    delayed.ListsTheLastFirst: {
        "test_delayed_messages_are_listed_as_they_are_due",
        "test_a_place_in_the_listing_outlasts_its_message",
    },
    delayed.NamesDelayedAnew: {"test_delayed_messages_are_listed_as_they_are_due"},
    delayed.ForgetsWhereItWasDue: {"test_a_place_in_the_listing_outlasts_its_message"},
    delayed.ReleasesAnew: {"test_chosen_delayed_messages_are_released_or_deleted"},
    delayed.ReleasesAPage: {"test_everything_that_is_delayed_can_be_released"},
    delayed.SaysNothingOfWhatIsDue: {"test_chosen_delayed_messages_are_released_or_deleted"},
    delayed.TakesOneName: {"test_g18_delayed_messages_are_named_by_themselves_or_by_ids"},
    pausing.PausesUnclaimed: {"test_queues_are_paused_as_far_as_that_is_claimed"},
    pausing.ClaimsPauses: {
        "test_queues_are_paused_as_far_as_that_is_claimed",
        "test_a_pause_is_seen_by_all_and_outlasts_who_made_it",
    },
    pausing.KeepsItsMarks: {"test_a_pause_is_seen_by_all_and_outlasts_who_made_it"},
    pausing.ResumesAtTheEnd: {"test_a_pause_is_seen_by_all_and_outlasts_who_made_it"},
    pausing.CountsPauses: {"test_a_pause_is_seen_by_all_and_outlasts_who_made_it"},
    pausing.PausesAll: {"test_a_pause_is_seen_by_all_and_outlasts_who_made_it"},
    pausing.ShowsNoPause: {"test_queues_are_paused_as_far_as_that_is_claimed"},
    pausing.RefusesToPublish: {"test_a_paused_queue_is_used_as_ever_by_all_others"},
    pausing.LeavesReadersAlone: {"test_a_paused_queue_is_used_as_ever_by_all_others"},
    pausing.CountsWhatGoesBack: {"test_workers_of_a_paused_queue_rest"},
    pausing.SaysNeverPaused: {"test_queues_are_paused_as_far_as_that_is_claimed"},
    pausing.TakesOneNameForMany: {"test_g18_pauses_need_the_name_of_a_queue"},
    details.AcksInAForkedChild: {"test_a_forked_child_leaves_its_parents_connection_alone"},
    details.OneCallBesideSeveralQueues: {"test_a_client_works_while_it_receives"},
    details.EndsEveryReceive: {"test_a_client_works_while_it_receives"},
    details.GivesNoClient: {"test_connecting_twice_leaves_deliveries_alone"},
    details.FoldsNames: {
        "test_headers_that_cannot_be_kept_are_refused",
        "test_names_that_are_nearly_alike_are_names_of_several_queues",
    },
    details.TakesAnyName: {"test_a_name_that_no_queue_can_have_is_refused"},
    details.WaitsForNone: {"test_g18_a_timeout_that_is_no_number_is_refused"},
    details.StripsWhatItKeeps: {
        "test_g5_the_body_arrives_byte_for_byte",
        "test_g13_odd_headers_and_ids_are_kept_all_the_way",
    },
    details.SendsAtOnce: {"test_g4_a_delayed_message_is_held_by_the_broker"},
    details.NamesTheLastError: {"test_publish_many_takes_any_iterable_and_refuses_a_bad_message"},
    details.LosesWithARefusedDelay: {"test_a_delay_that_no_broker_can_hold_is_refused"},
    details.DropsLikesLater: {"test_a_message_id_is_no_key"},
    details.WaitsTwice: {
        "test_receive_waits_as_long_as_it_was_told",
        "test_several_empty_queues_are_waited_for_as_long_as_was_told",
    },
    details.WakesLate: {"test_unsubscribe_wakes_a_waiting_receive"},
    details.SleepsInAck: {"test_an_ack_may_come_from_any_thread"},
    details.GivesBackLate: {"test_g8_disconnecting_gives_back_at_once_and_counts_nothing"},
    details.NeverSeesWhatIsDue: {"test_what_is_due_is_counted_as_ready"},
    details.TurnsBatches: {"test_of_each_queue_at_most_as_many_as_wanted_are_received"},
    details.SleepsThroughDelays: {"test_a_message_ends_the_wait_for_several_queues"},
    details.LosesForAMissingQueue: {"test_a_missing_one_of_several_queues_is_an_error"},
    details.GivesOneQueueBack: {
        "test_g2_an_unsettled_delivery_comes_back_after_disconnect",
        "test_g8_several_are_handed_back_together",
    },
    details.StopsAtALostOne: {"test_g8_what_cannot_be_handed_back_keeps_nothing_else"},
    details.HidesLostOnes: {"test_g8_what_cannot_be_handed_back_keeps_nothing_else"},
    details.AcksWhatWentBack: {"test_the_first_settlement_counts"},
    details.BuriesTheFourth: {"test_g8_a_hand_back_keeps_what_was_counted"},
    details.HandsBackElsewhere: {"test_a_hand_back_loses_nothing_whatever_it_is_given"},
    details.HandsBackAsNew: {"test_what_a_delivery_says_of_its_message"},
    details.CountsCrashesInMemory: {
        "test_g8_handing_back_for_later_is_free_too",
        "test_g19_the_largest_header_can_be_settled_in_every_way",
    },
    details.TakesBackOnDeclare: {"test_declare_is_idempotent_and_keeps_messages"},
    details.TouchesWhatItCounts: {"test_what_a_delivery_says_of_its_message"},
    details.PurgesRetries: {"test_purge_leaves_what_is_delayed"},
    details.KeepsTheLargestPrefetch: {"test_a_subscribed_client_reads_ahead_within_its_prefetch"},
    details.BlamesForeignLetters: {"test_listing_stops_at_a_hundred_unless_told"},
    details.CreatesToReplay: {"test_a_letter_without_a_way_back_stays"},
    details.NamesLettersByMessage: {"test_letters_are_named_as_far_as_that_is_claimed"},
    details.KnowsItsOwnLetters: {"test_g13_chosen_letters_are_deleted"},
    details.KeepsWhatIsEmptied: {"test_a_letter_is_sent_back_edited"},
    soon.ForgetsWhatIsSoon: SOON,
    soon.RaisesWhatIsSoon: {
        "test_g18_publishing_soon_has_its_errors_in_the_futures",
        "test_g1_disconnecting_ends_what_is_under_way",
    },
    soon.StopsAtTheFirst: {"test_g18_publishing_soon_has_its_errors_in_the_futures"},
    soon.CancelsWhatIsSoon: {"test_what_is_published_soon_cannot_be_cancelled"},
    soon.SendsAtOnceWhatIsSoon: {"test_what_is_published_soon_can_be_delayed"},
    soon.LeavesFuturesOpen: {"test_g1_disconnecting_ends_what_is_under_way"},
    soon.TurnsWhatIsSoon: SOON,
    soon.LetsOthersPass: {"test_g1_a_thread_that_waits_at_times_keeps_its_order"},
    promises.HoldsWithoutAConnection: {"test_calls_before_connect_say_so"},
    promises.BuriesOldDeliveries: {"test_g2_a_delivery_of_the_connection_before_is_not_settled_in_silence"},
    promises.GivesBackWhatOthersHold: {"test_g2_an_unsettled_delivery_comes_back_after_disconnect"},
    promises.TellsItsURL: {"test_what_a_client_says_of_itself_makes_sense"},
    promises.RetriesTwice: {"test_the_first_settlement_counts"},
    promises.CopiesRetriesTwice: {"test_g2_deliveries_are_rejected_from_many_threads_and_once"},
    promises.KeepsOldFailures: {"test_g5_attempts_travel_with_the_message"},
    promises.LosesLettersWithAWrongDelay: {"test_g12_a_dead_letter_goes_to_its_queue_at_once_whatever_it_is_given"},
    promises.DropsDelaysOfHandBacks: {"test_g7_a_retry_can_be_delayed"},
    promises.ForgetsCrashesOfLetters: {"test_a_letter_keeps_its_id_and_forgets_its_crashes"},
    promises.ForgetsReplaysOnDelay: {"test_replays_are_counted"},
    promises.ReplaysOneOfEqualIds: {"test_letters_that_are_gone_do_not_keep_the_others"},
    promises.ReplaysChosenWithoutHistory: {"test_g13_a_message_tells_of_its_past_on_all_its_ways"},
    promises.ImportsWithoutHistory: {"test_g13_an_imported_letter_is_the_original"},
    promises.ImportsToTheFront: {"test_letters_that_are_listed_can_be_imported"},
    promises.ImportsOnce: {"test_letters_that_are_listed_can_be_imported"},
    promises.PurgesLettersToo: {"test_purge_deletes_what_is_ready_only"},
    promises.ForgetsPausesOnDeclare: {"test_a_paused_queue_is_used_as_ever_by_all_others"},
    promises.PausesToCreate: {"test_a_pause_is_seen_by_all_and_outlasts_who_made_it"},
    promises.TellsOfAllPauses: {"test_a_pause_is_seen_by_all_and_outlasts_who_made_it"},
    promises.ListsMarks: {"test_queues_are_listed_as_far_as_that_is_claimed"},
    promises.DescribesNoPause: {"test_counting_alone_counts_the_same"},
    promises.CountsLettersThatAreHeld: {"test_letters_are_counted"},
    promises.AgesFromTheFirstSending: {"test_the_oldest_ready_message_has_an_age"},
    promises.CountsWhatComesOnce: {"test_rates_are_told"},
    promises.CountsWhoHasUnsubscribed: {"test_consumers_are_counted"},
    promises.ConsumesToLook: LOOKS,
    promises.ListsAHundredDelayed: {"test_everything_that_is_delayed_can_be_released"},
    promises.HidesWhenDelayedWereSent: {"test_delayed_messages_are_listed_as_they_are_due"},
    promises.CreatesToListDelayed: {"test_g18_delayed_messages_are_named_by_themselves_or_by_ids"},
    promises.DeletesAllForNone: {"test_g18_delayed_messages_are_named_by_themselves_or_by_ids"},
    promises.ReleasesToTheFront: {"test_everything_that_is_delayed_can_be_released"},
    promises.ForgetsThatReleasedAreDue: {"test_chosen_delayed_messages_are_released_or_deleted"},
    promises.ClaimsLongerDelays: {"test_g18_a_delay_over_the_longest_is_refused"},
    promises.IsDueWhenSent: {"test_g7_a_delay_ends_on_time_without_the_client_that_asked_for_it"},
    waiting.WakesOne: {"test_each_of_two_waiting_consumers_gets_one_of_two_messages"},
    waiting.HandsBackInSilence: {"test_a_waiting_receive_gets_what_comes_back"},
    waiting.LeavesInSilence: {"test_a_waiting_receive_gets_what_comes_back"},
    waiting.ReleasesInSilence: {"test_chosen_delayed_messages_are_released_or_deleted"},
    waiting.TakesAfterDisconnect: {"test_disconnect_ends_a_blocked_receive"},
    waiting.LingersForABatch: {"test_receive_returns_with_the_first_message"},
    waiting.LingersInSeveralQueues: {"test_a_message_ends_the_wait_for_several_queues"},
    waiting.FlushesForLong: {"test_g4_an_acknowledged_message_is_gone"},
    waiting.ReadsAheadInSilence: {"test_unsubscribe_gives_back_what_was_not_returned"},
    waiting.RemembersWhatItReadAhead: {"test_what_was_read_ahead_is_forgotten_with_the_connection"},
    waiting.SwallowsErrorsOfItsCaller: {"test_an_error_of_the_callers_own_passes_as_it_is"},
    waiting.DressesErrorsOfItsCaller: {"test_an_error_of_the_callers_own_passes_as_it_is"},
    waiting.PublishesManyByOne: {"test_hooks_are_told_of_each_message_once"},
    waiting.HasOneErrorForAll: {"test_g18_publishing_soon_has_its_errors_in_the_futures"},
    waiting.CutsDelaysOfWhatIsSoon: {"test_g18_a_delay_over_the_longest_is_refused"},
    claims.PublishesBackwards: {"test_messages_arrive_in_order"},
    claims.LosesWithoutOrder: {"test_messages_arrive_in_order"},
    claims.ClaimsExactCounts: COUNTS,
    claims.NeverCountsRight: COUNTS,
}

OUTAGES = {"test_g1_without_a_broker_each_call_ends_with_a_typed_error"}
PIPELINES = {"test_g1_what_publish_many_confirmed_is_there_whatever_happens_to_the_connection"}
KEPT = {"test_g1_confirmed_messages_survive_a_broker_crash"}
BROKEN_LEASES: dict[type[LeaseClient], set[str]] = {
    leases.NeverRenews: {"test_g11_a_delivery_that_is_held_longer_than_a_lease_stays"},
    leases.LeavesItsLeases: {"test_g8_disconnecting_gives_back_at_once_and_counts_nothing"},
    leases.ClaimsCrashes: {"test_g2_an_unsettled_delivery_comes_back_after_its_process_was_killed"},
    leases.CountsOneCrash: {"test_g2_an_unsettled_delivery_comes_back_after_its_process_was_killed"},
    leases.CountsCrashesUnclaimed: {"test_g2_an_unsettled_delivery_comes_back_after_its_process_was_killed"},
    leases.CountsCrashesAsAttempts: {"test_g2_an_unsettled_delivery_comes_back_after_its_process_was_killed"},
    leases.HidesSharing: {"test_what_is_claimed_of_sharing_holds"},
    leases.ClaimsDurable: KEPT,
    leases.LeaksSocketErrors: OUTAGES,
    leases.ShowsItsPassword: OUTAGES,
    leases.ShowsItsPasswordInItsRepr: {"test_g17_no_password_shows"},
    leases.HidesTheCause: OUTAGES,
    leases.ConnectsForEver: OUTAGES,
    leases.StatsForEver: OUTAGES,
    leases.ReceivesForEver: OUTAGES,
    leases.SeesNoOutage: OUTAGES,
    leases.DisconnectsForEver: OUTAGES,
    leases.RaisesOnDisconnect: OUTAGES,
    leases.PublishesUnconfirmed: OUTAGES,
    leases.WaitsForAcks: {"test_an_instant_ack_waits_for_no_broker"},
    leases.HidesInstantAcks: {"test_an_instant_ack_waits_for_no_broker"},
    leases.ConfirmsTheFirst: PIPELINES,
    leases.ForgetsSettlements: OUTAGES,
    leases.ConnectsOnce: {"test_g14_a_client_finds_its_connection_again"},
    leases.GivesUpItsConnection: OUTAGES,
    leases.DeclaresOnce: {"test_g1_publishing_while_the_broker_is_down_raises_and_recovers"},
    leases.RemovesFirst: {"test_g2_whenever_a_client_dies_its_message_is_somewhere"},
    leases.FillsTheLimit: {"test_g19_the_largest_body_can_be_settled_in_every_way"},
    leases.DropsTheExplanation: {"test_g19_the_largest_body_can_be_settled_in_every_way"},
    leases.RefusesLargeWithAnyError: {"test_g19_the_largest_body_can_be_settled_in_every_way"},
    outages.StaysConnectedAfterAFailure: {"test_g15_a_client_survives_outages_again_and_again"},
    outages.ReconnectsOnce: {"test_g15_a_client_survives_outages_again_and_again"},
    soon.WaitsForWhatIsSoon: {"test_g1_publishing_soon_never_waits"},
    claims.LogsNoOutage: {"test_g15_a_client_survives_outages_again_and_again"},
    claims.LogsOutagesUnclaimed: {"test_g15_a_client_survives_outages_again_and_again"},
    claims.LogsNoEnd: {"test_g15_a_client_survives_outages_again_and_again"},
    outages.DeclaresInVain: OUTAGES,
    outages.RaisesAtOnce: OUTAGES,
    outages.SaysThatItIsNotThere: OUTAGES,
    outages.IgnoresTimeouts: OUTAGES,
    outages.WaitsForConfirmations: OUTAGES,
    outages.ConfirmsAllButTheLast: PIPELINES,
    outages.ForgetsALostConnection: PIPELINES,
    outages.RenewsAFew: {"test_g11_a_delivery_that_is_held_longer_than_a_lease_stays"},
    outages.RenewsUntilACut: {"test_g15_a_client_survives_outages_again_and_again"},
    outages.LeavesConnections: {"test_g14_a_client_finds_its_connection_again"},
    outages.WorksInAForkedChildToo: {"test_a_forked_child_leaves_its_parents_connection_alone"},
    outages.RemovesFirstOnHandBack: {"test_g2_whenever_a_client_dies_its_message_is_somewhere"},
    outages.RemovesLettersFirst: {"test_g2_whenever_a_client_dies_its_message_is_somewhere"},
    outages.DeclaresAgainToPublish: {"test_g1_publishing_while_the_broker_is_down_raises_and_recovers"},
    outages.HidesDurable: KEPT,
    outages.LosesWhatIsInFlight: KEPT,
    outages.LosesWhatIsDelayed: KEPT,
    outages.LosesHeaders: KEPT,
    outages.CountsOutages: KEPT,
    outages.CountsDeathsTwice: {"test_g2_an_unsettled_delivery_comes_back_after_its_process_was_killed"},
    outages.ForgetsDeathsOnHandBack: {"test_g2_an_unsettled_delivery_comes_back_after_its_process_was_killed"},
    outages.ForgetsDeathsOnDelay: {"test_g2_an_unsettled_delivery_comes_back_after_its_process_was_killed"},
    outages.RenewsForItsFirstConnection: {"test_g11_a_delivery_that_is_held_longer_than_a_lease_stays"},
    outages.DescribesWithoutABroker: OUTAGES,
    claims.ForgetsAtOnce: {"test_g2_an_unsettled_delivery_comes_back_after_its_process_was_killed"},
    claims.HidesRedelivery: {"test_g2_an_unsettled_delivery_comes_back_after_its_process_was_killed"},
    claims.ClaimsCrashesWithoutRedelivery: {"test_g2_an_unsettled_delivery_comes_back_after_its_process_was_killed"},
}

_TOGETHER = 6
"""So many clients are run by one pytest inside this one."""


@pytest.fixture(scope="session")
def lease_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a lease broker."""
    broker = start_new(LeaseBroker, tmp_path_factory.mktemp("broken-leases"))
    yield broker.url
    broker.close()


def _groups(clients: Iterable[type[QueueClient]]) -> list[list[type[QueueClient]]]:
    """The clients that are run together."""
    left = iter(clients)
    return list(iter(lambda: list(islice(left, _TOGETHER)), []))


def _names(clients: list[type[QueueClient]]) -> str:
    """All of them, so that ``-k`` finds each."""
    return ",".join(client.__name__ for client in clients)


def _assert_found(outcomes: dict[type[QueueClient], Outcome], expected: Mapping[Any, set[str]], sound: str) -> None:
    """Fail unless exactly the expected tests failed for each client, and ``sound`` passed for all."""
    wrong = {
        client.__name__: (outcome.failed, outcome.text)
        for client, outcome in outcomes.items()
        if outcome.failed != expected[client] or sound not in outcome.passed
    }
    for name, (failed, text) in wrong.items():
        print(f"{name} fails {sorted(failed)}:\n{text}\n")  # noqa: T201 - pytest shows it
    assert not wrong, {name: failed for name, (failed, _) in wrong.items()}


@pytest.mark.parametrize("clients", _groups(BROKEN), ids=_names)
def test_the_suite_fails_where_a_client_is_broken(tmp_path: Path, clients: list[type[QueueClient]]) -> None:
    """Exactly the tests of the broken behaviour fail."""
    tests = {client: QUICK | BROKEN[client] for client in clients}  # type: ignore[index]
    outcomes = run_suites(tmp_path, tests, wait=1.0, finalizers=False)
    found = dict(zip(clients, outcomes, strict=True))
    _assert_found(found, BROKEN, "test_g5_the_body_arrives_byte_for_byte")


@pytest.mark.parametrize("clients", _groups(BROKEN_LEASES), ids=_names)
def test_the_suite_fails_where_a_client_of_a_real_broker_is_broken(
    tmp_path: Path, clients: list[type[QueueClient]], lease_url: str
) -> None:
    """What only an outage, a death or a full lease shows is found, too."""
    sound = "test_headers_and_message_id_arrive"
    tests = {client: {sound} | BROKEN_LEASES[client] for client in clients}  # type: ignore[index]
    outcomes = run_suites(tmp_path, tests, url=lease_url, wait=2.0, finalizers=False)
    _assert_found(dict(zip(clients, outcomes, strict=True)), BROKEN_LEASES, sound)


def test_every_broken_client_is_run() -> None:
    """A class that is only written and not listed proves nothing."""
    modules = (
        memory,
        calls,
        claims,
        delayed,
        describing,
        details,
        diagnoses,
        history,
        imports,
        keeping,
        leases,
        letters,
        outages,
        pausing,
        promises,
        soon,
        waiting,
    )
    broken = {
        kind
        for module in modules
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, QueueClient) and kind.__module__ == module.__name__
    }
    helpers = {leases.PropertyClient, leases.WithLink, leases.WithPool, keeping.Moves, history.Telling}
    assert broken - helpers == {*BROKEN, *BROKEN_LEASES}


def test_a_sound_client_passes_what_the_broken_ones_fail(tmp_path: Path) -> None:
    """The same tests, run in the same way, find nothing wrong with the client that the broken ones are made of."""
    skipped = BROKEN[memory.ClaimsSharing] | BROKEN[delayed.ListsUnclaimed]  # it claims less there, and more here
    tests = QUICK.union(*BROKEN.values()) - skipped
    passed, failed, output = run_suite(tmp_path, MemoryClient, tests)
    assert failed == set(), output
    assert passed == tests, output


def test_a_third_party_backend_passes_with_the_abstract_methods_alone(tmp_path: Path) -> None:
    """Lists and a lock behind the eight methods, registered for a scheme of their own, pass the whole suite."""
    passed, failed, output = run_suite(tmp_path, ListClient)
    assert failed == set(), output
    assert len(passed) > 60, output


def test_a_client_without_order_and_exact_counts_need_not_lie(tmp_path: Path) -> None:
    """Who claims neither passes with counts that are late and messages that come in any order."""
    tests = COUNTS | {
        "test_g2_the_main_job",
        "test_g7_a_handler_can_say_what_becomes_of_its_task",
        "test_g13_all_letters_are_replayed",
        "test_g13_letters_that_somebody_holds_are_left_alone",
        "test_g13_what_replay_cannot_send_back_stays_in_its_place",
        "test_messages_arrive_in_order",
        "test_purge_leaves_what_is_delayed",
        "test_replay_keeps_to_its_limit_and_target",
    }
    passed, failed, output = run_suite(tmp_path, EstimatingClient, tests)
    assert (passed, failed) == (tests, set()), output


def test_what_a_client_can_do_may_depend_on_its_instance(tmp_path: Path, lease_url: str) -> None:
    """``capabilities`` as a property: the suite and the task manager read it from the client that they use."""
    tests = {"test_g13_a_dead_letter_explains_itself", "test_g2_the_main_job", "test_g7_backoff_delays_the_retry"}
    passed, failed, output = run_suite(tmp_path, leases.PropertyClient, tests, url=lease_url)
    assert (passed, failed) == (tests, set()), output
