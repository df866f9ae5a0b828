package difyexec;

import difyexec.DifyExec.Pace.Rate;
import difyexec.DifyExec.Release.Listing;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Attempt.Tries;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// Rules of pace: how many at a time, whether the server answers, which mode.
final class PaceTest {
    @Nested
    class ThePace {
        private final Pace pace = new Pace(8, null, null);

        @Test
        void isOneAtLeastAndTheCeilingAtMost() {
            for (int run = 0; run < 1000; run++) pace.succeeded();
            assertTrue(pace.hasRoom(NOON, 7));
            assertFalse(pace.hasRoom(NOON, 8));

            pace.refused(1, 0, 1);
            pace.refused(9, 8, 9);

            assertEquals(1, pace.places());
            assertTrue(pace.hasRoom(NOON, 0));
        }

        @Test
        void isCutToWhatTheServerRuns() {
            pace.refused(6, 5, 8);

            assertEquals(5, pace.places());
            assertFalse(pace.hasRoom(NOON, 5));
            assertEquals("5 (limit 8)", pace.span());
        }

        @Test
        void theRefusalsOfOneRoundTripTakeAwayOneEach() {
            pace.refused(6, 5, 8); // eight have started: 7 and 8 were counted as running
            pace.refused(7, 1, 8); // others have ended since, which proves nothing
            pace.refused(8, 0, 8);
            assertEquals(3, pace.places());

            pace.refused(9, 2, 9);

            assertEquals(2, pace.places());
        }

        @Test
        void severalWaitsCutThePaceOnceToWhatTheServerRuns() {
            pace.cutIfQueued(Duration.ZERO, 3, 3, 8);

            assertFalse(pace.cutIfQueued(seconds(9), 4, 3, 8), "one wait means nothing");
            assertTrue(pace.cutIfQueued(seconds(9), 5, 3, 8));
            assertFalse(pace.cutIfQueued(seconds(9), 7, 2, 8));
            assertFalse(pace.cutIfQueued(seconds(9), 8, 2, 8));

            assertEquals(3, pace.places());
        }

        @Test
        void waitsARoundOfSuccessesApartAreNotSeveral() {
            for (long wait : new long[] {0, 9}) pace.cutIfQueued(seconds(wait), 1, 1, 8);
            for (int run = 0; run < 8; run++) pace.succeeded();

            assertFalse(pace.cutIfQueued(seconds(9), 10, 1, 16));
            assertEquals(8, pace.places());
        }

        @Test
        void waitsLeaveAsManySlotsAsTheServerWasSeenRunning() {
            for (int run = 0; run < 5; run++) pace.finished(seconds(2), NOON);

            for (long wait : new long[] {0, 9}) pace.cutIfQueued(seconds(wait), 1, 1, 8);
            assertTrue(pace.cutIfQueued(seconds(9), 2, 1, 8));

            assertEquals(5, pace.places());
        }

        @Test
        void waitsChangeNothingIfTheServerRunsThatMany() {
            for (int run = 0; run < 8; run++) pace.finished(seconds(2), NOON);

            pace.cutIfQueued(Duration.ZERO, 1, 1, 8);
            for (int run = 2; run < 5; run++) assertFalse(pace.cutIfQueued(seconds(9), run, 1, 8));

            assertEquals("8 (limit 8)", pace.span());
        }

        @Test
        void growsByOneAfterEachSuccessfulRound() {
            pace.refused(1, 2, 1);

            pace.succeeded();
            assertEquals(2, pace.places());
            pace.succeeded();
            assertEquals(3, pace.places());
            for (int run = 0; run < 3; run++) pace.succeeded();
            assertEquals(4, pace.places());
            assertEquals("2–4 (limit 8)", pace.span());
        }

        @Test
        void aRefusalStartsTheRoundFromScratch() {
            pace.refused(1, 3, 1);
            for (int run = 0; run < 2; run++) pace.succeeded();

            pace.refused(2, 3, 2);
            for (int run = 0; run < 2; run++) pace.succeeded();

            assertEquals(3, pace.places());
        }

        @Test
        void aSlotRefusedAtOnceIsRetriedAfterTwiceAsManyRounds() {
            pace.refused(1, 2, 1);
            for (int tried = 1, rounds = 1; tried <= 6; tried++, rounds = Math.min(10, 2 * rounds)) {
                for (int run = 1; run < 2 * rounds; run++) pace.succeeded();
                assertEquals(2, pace.places());
                pace.succeeded();
                assertEquals(3, pace.places());

                pace.refused(tried + 1, 2, tried + 1);
            }
        }

        @Test
        void aSlotThatLastsARoundIsFollowedByTheNextAtOnce() {
            pace.refused(1, 2, 1);
            for (int run = 0; run < 2; run++) pace.succeeded();
            pace.refused(2, 2, 2);
            for (int run = 0; run < 4 + 3; run++) pace.succeeded();
            assertEquals(4, pace.places());

            pace.refused(3, 2, 3);
            for (int run = 0; run < 4; run++) pace.succeeded();

            assertEquals(3, pace.places());
        }

        @ParameterizedTest(name = "the shortest wait took {0} ms, others {1} ms: a queue = {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                shortest, others, queue
                30,       900,    false
                30,       1100,   true
                2000,     8000,   false
                2000,     9000,   true
                """)
        void aWaitIsAQueueIfItIsLongAndFarLongerThanTheShortest(long shortest, long others, boolean queue) {
            pace.cutIfQueued(Duration.ofMillis(shortest), 1, 1, 8);
            pace.cutIfQueued(Duration.ofMillis(others), 2, 1, 8);

            assertEquals(queue, pace.cutIfQueued(Duration.ofMillis(others), 3, 1, 8));
        }

        @ParameterizedTest(name = "-c {0}, {1} runs cut, {2} quiet: {3} places")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                places, cut, quiet, held
                8,      0,   0,     0
                8,      3,   0,     3
                8,      0,   3,     3
                8,      2,   1,     3
                8,      3,   3,     4
                8,      8,   8,     4
                5,      5,   0,     2
                3,      0,   3,     1
                2,      2,   0,     1
                1,      1,   0,     1
                1,      7,   0,     1
                1,      0,   1,     0
                """)
        void runsThatMayNeverEndTakeHalfTheSlotsAtMost(int places, int cut, int quiet, int held) {
            assertEquals(held, new Pace(places, null, null).held(Collections.nCopies(cut, NOON), quiet, NOON));
        }

        @ParameterizedTest(name = "the slowest took {0} s, cut {1} s ago: held = {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                slowest, ago, held
                0,       9,   1
                0,       10,  0
                2,       9,   1
                2,       10,  0
                3,       11,  1
                3,       12,  0
                60,      239, 1
                60,      240, 0
                """)
        void theOnlySlotIsHeldForFourTimesTheSlowestRun(long slowest, long ago, int held) {
            var one = new Pace(1, null, null);
            for (long took : List.of(1L, slowest, 0L)) one.finished(seconds(took), NOON);

            assertEquals(held, one.held(List.of(NOON), 0, NOON.plusSeconds(ago)));
        }

        @Test
        void halfIsOfTheRunsTheServerAccepts() {
            pace.refused(6, 3, 8);

            assertEquals(1, pace.held(Collections.nCopies(5, NOON), 0, NOON));
        }

        @Test
        void nothingStartsInAPause() {
            pace.noneBefore(NOON.plusSeconds(9));
            pace.noneBefore(NOON.plusSeconds(3));

            assertFalse(pace.hasRoom(NOON.plusSeconds(8), 0));
            assertTrue(pace.hasRoom(NOON.plusSeconds(9), 0));
            assertEquals(NOON.plusSeconds(9), pace.nextStart());
        }

        @Test
        void withAWaitTheNextStartIsThatLongAfterTheEnd() {
            var slow = new Pace(1, seconds(5), null);
            assertTrue(slow.hasRoom(NOON, 0));

            slow.started(NOON);
            assertFalse(slow.hasRoom(NOON.plusSeconds(3600), 0));
            slow.ended(NOON.plusSeconds(10));

            assertFalse(slow.hasRoom(NOON.plusSeconds(14), 0));
            assertTrue(slow.hasRoom(NOON.plusSeconds(15), 0));
        }

        @Test
        void withARateALateStartDoesNotDelayOthersAndAPauseIsNotMadeUpFor() {
            var even = new Pace(9, null, new Rate(seconds(2)));

            even.started(NOON);
            assertFalse(even.hasRoom(NOON.plusMillis(1999), 1));
            assertTrue(even.hasRoom(NOON.plusMillis(2000), 1));
            even.started(NOON.plusMillis(2100));
            assertEquals(NOON.plusSeconds(4), even.nextStart());
            even.started(NOON.plusSeconds(60));

            assertFalse(even.hasRoom(NOON.plusMillis(61_700), 1));
            assertTrue(even.hasRoom(NOON.plusSeconds(62), 1));
        }
    }

    @Nested
    class TheMostConcurrentRuns {
        private final Pace pace = new Pace(4, null, null);

        private void finished(long... fromTo) {
            for (int at = 0; at < fromTo.length; at += 2)
                pace.finished(seconds(fromTo[at + 1] - fromTo[at]), NOON.plusSeconds(fromTo[at + 1]));
        }

        @Test
        void areThoseThatRanAtTheSameTime() {
            finished(0, 10, 2, 11, 5, 12, 11, 20, 11, 21);

            assertEquals(3, pace.peakConcurrency());
        }

        @Test
        void doNotCountARunThatReplacedAnother() {
            for (int run = 0; run < 4; run++) {
                finished(10 * run, 10 * run + 10);
                pace.finished(seconds(10), NOON.plusSeconds(10 * run + 10).minusMillis(100)); // the clocks differ a little
            }

            assertEquals(2, pace.peakConcurrency());
        }

        @Test
        void areForgottenInTime() {
            finished(0, 10, 0, 10, 0, 10, 0, 10, 0, 10);
            for (int run = 1; run <= 8; run++) finished(10 * run, 10 * run + 10);

            assertEquals(1, pace.peakConcurrency());
        }

        @Test
        void areUnknownIfTheServerReportsNoTimes() {
            finished(5, 5);

            assertEquals(0, pace.peakConcurrency());
        }
    }

    @Nested
    class TheHealth {
        private final Health health = new Health(new Backoff(seconds(10), seconds(60), 3));

        private void fail(int times, Instant when) {
            for (int time = 0; time < times; time++) health.failed(when, when);
        }

        @Test
        void fiveFailuresInARowPauseAllStarts() {
            fail(4, NOON);
            assertTrue(health.isOpen(NOON));

            fail(1, NOON);

            assertFalse(health.isOpen(NOON));
            assertFalse(health.isOpen(NOON.plusSeconds(100)));
            assertEquals(Instant.MAX, health.opens());
        }

        @Test
        void aProbeIsDueAfterTheBackOff() {
            assertEquals(Instant.MAX, health.nextProbe());

            fail(5, NOON);

            assertTrue(health.nextProbe().isAfter(NOON.plusSeconds(2)));
            assertFalse(health.nextProbe().isAfter(NOON.plusSeconds(3)));
        }

        @Test
        void saysWhatIsWaitedFor() {
            assertEquals(Optional.empty(), health.pauseNote(NOON));

            fail(5, NOON);
            assertTrue(health.pauseNote(NOON).orElseThrow()
                    .endsWith(Text.seconds(Duration.between(NOON, health.nextProbe()))));
            assertTrue(health.pauseNote(health.nextProbe()).orElseThrow().endsWith("now"));

            health.pause(NOON.plusSeconds(40));
            assertTrue(health.pauseNote(NOON.plusSeconds(10)).orElseThrow().contains("30 s"));
        }

        @Test
        void probesThatFailComeLaterButNoLaterThanThreeSeconds() {
            var quick = new Health(new Backoff(seconds(1), seconds(60), 3));
            for (int time = 0; time < 6; time++) quick.failed(NOON, NOON);
            assertFalse(quick.nextProbe().isBefore(NOON.plusSeconds(1)));

            for (int time = 0; time < 20; time++) quick.failed(NOON, NOON);

            assertEquals(NOON.plusSeconds(3), quick.nextProbe());
        }

        @Test
        void requestsInFlightWhenStartsPausedDelayNoProbe() {
            fail(5, NOON);
            var first = health.nextProbe();
            for (int late = 0; late < 60; late++) health.failed(NOON.plusSeconds(1), NOON.minusSeconds(1));

            assertEquals(first, health.nextProbe());
        }

        @Test
        void anAnswerResetsTheCountOfFailures() {
            fail(9, NOON);

            health.answered(NOON);

            assertTrue(health.isOpen(NOON));
            assertEquals(Instant.MAX, health.nextProbe());
            fail(4, NOON);
            assertTrue(health.isOpen(NOON));
        }

        @Test
        void onlyAnAnswerToALaterRequestEndsADoubt() {
            health.doubted(NOON, NOON.minusSeconds(2));
            health.doubted(NOON.plusSeconds(1), NOON.minusSeconds(1));
            assertEquals(2, health.doubts());

            health.answered(NOON);
            assertEquals(2, health.doubts());
            assertEquals(NOON.plusSeconds(2), health.nextProbe());

            health.answered(NOON.plusSeconds(1));
            assertEquals(0, health.doubts());
            assertEquals(Instant.MAX, health.nextProbe());
        }

        @Test
        void aDoubtIsFollowedByAProbeAlsoIfAnotherIsUnderWay() {
            fail(5, NOON);
            health.doubted(NOON.plusSeconds(9), NOON.minusSeconds(1));

            health.answered(NOON.plusSeconds(3));

            assertEquals(NOON.plusSeconds(10), health.nextProbe());
        }

        @Test
        void fiveMinutesWithoutAnyAnswerStopTheBatch() {
            fail(5, NOON);

            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(300), 0));
            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(301), 1));
            assertEquals(Exit.STOPPED, health.verdict(NOON.plusSeconds(301), 0).orElseThrow().exit());
        }

        @Test
        void anAnswerRestartsTheFiveMinutes() {
            fail(5, NOON);
            health.answered(NOON);
            fail(5, NOON.plusSeconds(200));

            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(499), 0));
            assertTrue(health.verdict(NOON.plusSeconds(501), 0).isPresent());
        }

        @Test
        void aServerThatAsksForAPauseGetsIt() {
            health.pause(NOON.plusSeconds(90));
            health.pause(NOON.plusSeconds(30));

            assertFalse(health.isOpen(NOON.plusSeconds(89)));
            assertEquals(NOON.plusSeconds(90), health.opens());
            assertTrue(health.isOpen(NOON.plusSeconds(90)));
        }

        @Test
        void aRequestedPauseDoesNotCountAsSilence() {
            fail(5, NOON);
            health.pause(NOON.plusSeconds(600));

            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(599), 0));
            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(600), 0));
            fail(1, NOON.plusSeconds(601));
            health.pause(NOON.plusSeconds(1201));
            assertTrue(health.verdict(NOON.plusSeconds(601), 0).isPresent());
        }

        @Test
        void aMinuteOfRefusalsWhileNothingRunsStopsTheBatch() {
            for (int second = 0; second <= 60; second += 15) health.refused(NOON.plusSeconds(second), 0);
            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(60), 0));

            health.refused(NOON.plusSeconds(61), 0);

            assertEquals(Exit.STOPPED, health.verdict(NOON.plusSeconds(61), 0).orElseThrow().exit());
        }

        @Test
        void refusalsWhileOurRunsAreActiveDoNotStopTheBatch() {
            health.refused(NOON, 0);
            health.refused(NOON.plusSeconds(30), 2);
            health.refused(NOON.plusSeconds(70), 0);

            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(70), 0));
        }

        @Test
        void aRunThatIsLetInEndsTheMinute() {
            health.refused(NOON, 0);
            health.served(NOON);
            health.refused(NOON.plusSeconds(70), 0);

            assertEquals(Optional.empty(), health.verdict(NOON.plusSeconds(70), 0));
        }
    }

    @Nested
    class TheRoute {
        private static final Attempt EARLIER =
                Given.sent(0, row("a"), Tries.NONE, "u", Mode.STREAMING, "", NOON);

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                app,      server, asked,     earlier,   mode
                WORKFLOW, 1.14.2, AUTO,      -,         BLOCKING
                WORKFLOW, 1.14.2, AUTO,      STREAMING, STREAMING
                WORKFLOW, 1.14.2, AUTO,      BLOCKING,  BLOCKING
                WORKFLOW, 1.14.2, BLOCKING,  STREAMING, BLOCKING
                WORKFLOW, 1.14.2, STREAMING, BLOCKING,  STREAMING
                WORKFLOW, 1.9.2,  AUTO,      -,         BLOCKING
                CHATFLOW, 1.14.2, AUTO,      -,         STREAMING
                CHATFLOW, 1.14.2, AUTO,      BLOCKING,  STREAMING
                CHATFLOW, 1.14.2, BLOCKING,  -,         BLOCKING
                CHATFLOW, 1.14.2, STREAMING, -,         STREAMING
                CHATFLOW, 1.11.0, AUTO,      -,         STREAMING
                CHATFLOW, 1.10.1, AUTO,      -,         BLOCKING
                CHATFLOW, 1.9.2,  AUTO,      -,         BLOCKING
                CHATFLOW, 1.9.2,  AUTO,      STREAMING, STREAMING
                CHATFLOW, 1.9.2,  STREAMING, -,         STREAMING
                """)
        void startsWithTheModeAskedForOrUsedBeforeOrSuitedToTheApp(AppKind app, String server, Mode asked,
                Mode earlier, Mode mode) {
            assertEquals(mode, new ModePolicy(asked, Optional.ofNullable(earlier), app, server).mode());
        }

        /// Answers after that many seconds: `504/60`; `refused` in a stream.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", delimiter = '|', textBlock = """
                app      | server | asked     | earlier   | answers                                 | mode
                WORKFLOW | 1.14.2 | AUTO      | -         | 504/1                                   | STREAMING
                WORKFLOW | 1.14.2 | AUTO      | -         | 524/100                                 | STREAMING
                WORKFLOW | 1.14.2 | AUTO      | -         | 502/60, 503/60, 500/60, 429/60          | BLOCKING
                WORKFLOW | 1.14.2 | AUTO      | -         | NO_ANSWER/26                            | STREAMING
                WORKFLOW | 1.14.2 | AUTO      | -         | CUT/60                                  | STREAMING
                WORKFLOW | 1.14.2 | AUTO      | -         | NO_ANSWER/25, NO_ANSWER/1, TIMED_OUT/300 | BLOCKING
                WORKFLOW | 1.14.2 | AUTO      | -         | ran/100, unsent/100                     | BLOCKING
                WORKFLOW | 1.14.2 | BLOCKING  | -         | 504/60                                  | BLOCKING
                WORKFLOW | 1.14.2 | AUTO      | STREAMING | refused, refused                        | STREAMING
                WORKFLOW | 1.14.2 | AUTO      | STREAMING | refused, refused, refused               | BLOCKING
                WORKFLOW | 1.14.2 | AUTO      | STREAMING | refused, ran/1, refused, ran/1, refused | BLOCKING
                WORKFLOW | 1.16.0 | AUTO      | STREAMING | refused, refused, refused, refused      | STREAMING
                WORKFLOW | 1.14.2 | STREAMING | -         | beside, beside, beside, beside          | STREAMING
                CHATFLOW | 1.14.2 | AUTO      | -         | 504/60                                  | STREAMING
                CHATFLOW | 1.14.2 | AUTO      | -         | refused, refused, refused               | BLOCKING
                """)
        void changesTheModeOnlyIfAProxyCutsRunsOrStreamsAreRefused(AppKind app, String server, Mode asked,
                Mode earlier, String answers, Mode mode) {
            var route = new ModePolicy(asked, Optional.ofNullable(earlier), app, server);
            var before = route.mode();
            var said = new ArrayList<String>();
            for (var answer : answers.split(", ")) {
                var word = answer.split("/")[0];
                int number = answer.contains("/") ? Integer.parseInt(answer.split("/")[1]) : 0;
                var response = switch (word) {
                    case "ran" -> succeeded("run-1");
                    case "unsent" -> new Response.NotSent("refused", "");
                    case "refused" -> Response.Refused.event(500, "", "x is required in input form", Optional.empty());
                    case "beside" -> Response.Refused.event(400, "", "connection error", Optional.of(run("run-1")));
                    default -> Character.isDigit(word.charAt(0)) ? html(Integer.parseInt(word))
                            : cut(Symptom.valueOf(word));
                };
                route.observe(response, seconds(number)).ifPresent(said::add);
            }

            assertEquals(mode, route.mode());
            assertEquals(mode == before ? 0 : 1, said.size(), said::toString);
        }

        @Test
        void aRunningRunFoundByItsNameShowsHowTheServerLists() {
            var route = new ModePolicy(Mode.AUTO, Optional.empty(), AppKind.WORKFLOW, "");
            var unresolved = unresolved(attempt(0, 0), cut(Symptom.CUT), 0);
            assertEquals(Listing.NOT_KNOWN, route.listing(attempt(0, 0)));

            route.listsRunning(unresolved(attempt(0, 0), cut(Symptom.CUT, run("run-1")), 0)); // found by id
            assertEquals(Listing.NOT_KNOWN, route.listing(attempt(0, 0)));
            route.listsRunning(unresolved);

            assertEquals(Listing.FROM_START, route.listing(attempt(0, 0)));
        }

        /// 1.9 lists a run whose listener has given up, though it is still active.
        @Test
        void aRunningRunShowsNothingOfAServerThatIsKnownToListAtTheEnd() {
            var route = new ModePolicy(Mode.AUTO, Optional.empty(), AppKind.WORKFLOW, "1.9.2");

            route.listsRunning(unresolved(attempt(0, 0), cut(Symptom.CUT), 0));

            assertEquals(Listing.AT_END, route.listing(attempt(0, 0)));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                earlier, now,    listing
                1.14.2,  1.16.0, FROM_START
                1.9.2,   1.14.2, NOT_KNOWN
                1.14.2,  1.9.2,  NOT_KNOWN
                '',      1.14.2, NOT_KNOWN
                """)
        void nothingIsKnownOfAServerReplacedBetweenTwoCalls(String earlier, String now, Listing listing) {
            var route = new ModePolicy(Mode.AUTO, Optional.empty(), AppKind.WORKFLOW, now);

            route.sentBefore(EARLIER.user(), earlier, false);

            assertEquals(listing, route.listing(EARLIER));
        }

        @Test
        void aRequestOfThisCallIsListedAsItsServerDoes() {
            var route = new ModePolicy(Mode.AUTO, Optional.empty(), AppKind.WORKFLOW, "1.16.0");

            route.sentBefore(EARLIER.user(), "1.9.2", false);
            route.sentBefore("u2", "1.14.2", false);

            assertEquals(Listing.FROM_START, route.listing(attempt(0, 0)));
            assertEquals(Listing.NOT_KNOWN, route.listing(EARLIER));
        }

        @Test
        void aRunningRunShowsNothingOfTheServerThatWasReplaced() {
            var route = new ModePolicy(Mode.AUTO, Optional.empty(), AppKind.WORKFLOW, "1.16.0");
            route.sentBefore(EARLIER.user(), "1.9.2", false);

            route.listsRunning(unresolved(attempt(0, 0), cut(Symptom.CUT), 0));

            assertEquals(Listing.NOT_KNOWN, route.listing(EARLIER));
        }
    }
}
