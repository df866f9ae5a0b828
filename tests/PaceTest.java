package difyexec;

import difyexec.DifyExec.Pace.Rate;
import difyexec.DifyExec.Release.Listing;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// Rules of pace: how many at a time, whether the server answers, which mode.
final class PaceTest {
    @Nested
    class ConcurrencyControl {
        private final Pace pace = new Pace(8);

        static final List<Story> STORIES = Story.of("""
                the pace is at least one and at most the ceiling
                  succeeded 1000, room for 8th, no room for 9th
                  refused 1 0 1, refused 9 8 9, 1 place, room for 1st

                the pace is cut to what the server runs
                  refused 6 5 8, 5 places, no room for 6th, span 5 rows at a time (-c 8)

                the refusals of one round trip take away one each, whatever else has ended since
                  refused 6 5 8, refused 7 1 8, refused 8 0 8, 3 places
                  refused 9 2 9, 2 places

                the pace grows by one after each successful round
                  refused 1 2 1, succeeded 1, 2 places
                  succeeded 1, 3 places, succeeded 3, 4 places, span 2 to 4 rows at a time (-c 8)

                a refusal starts the round from scratch
                  refused 1 3 1, succeeded 2, refused 2 3 2, succeeded 2, 3 places

                a slot that lasts a round is followed by the next at once
                  refused 1 2 1, succeeded 2, refused 2 2 2, succeeded 7, 4 places
                  refused 3 2 3, succeeded 4, 3 places
                """);

        @ParameterizedTest(name = "{0}")
        @FieldSource("STORIES")
        void adaptsToRefusalsAndSuccesses(Story story) {
            for (var step : story.steps()) {
                var words = step.split(" ");
                var numbers = Stream.of(words).filter(word -> word.matches("\\d+")).mapToInt(Integer::parseInt)
                        .toArray();
                switch (words[0]) {
                    case "refused" -> pace.cutAfterRefusal(numbers[0], numbers[1], numbers[2]);
                    case "succeeded" -> IntStream.range(0, numbers[0]).forEach(_ -> pace.noteSuccess());
                    case "room", "no" -> assertEquals(words[0].equals("room"),
                            Integer.parseInt(words[words.length - 1].replaceAll("\\D", "")) <= pace.slots(), step);
                    case "span" -> assertEquals(step.substring(5), pace.span());
                    default -> assertEquals(numbers[0], pace.slots(), step);
                }
            }
        }

        @Test
        void needsTwiceAsManySuccessesToAddASlotAfterEachRefusal() {
            pace.cutAfterRefusal(1, 2, 1);
            for (int tried = 1, rounds = 1; tried <= 6; tried++, rounds = Math.min(10, 2 * rounds)) {
                for (int run = 1; run < 2 * rounds; run++) pace.noteSuccess();
                assertEquals(2, pace.slots());
                pace.noteSuccess();
                assertEquals(3, pace.slots());

                pace.cutAfterRefusal(tried + 1, 2, tried + 1);
            }
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
        void reservesAtMostHalfTheSlotsForRunsThatMayNeverEnd(int places, int cut, int quiet, int held) {
            assertEquals(held, new Pace(places).held(Collections.nCopies(cut, NOON), quiet, NOON));
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
        void anUnresolvedRunHoldsTheOnlySlotForFourTimesTheSlowestRun(long slowest, long ago, int held) {
            var one = new Pace(1);
            for (long took : List.of(1L, slowest, 0L)) one.noteRunTime(seconds(took));

            assertEquals(held, one.held(List.of(NOON), 0, NOON.plusSeconds(ago)));
        }

        @Test
        void reservesAtMostHalfTheSlotsThatTheServerAccepts() {
            pace.cutAfterRefusal(6, 3, 8);

            assertEquals(1, pace.held(Collections.nCopies(5, NOON), 0, NOON));
        }
    }

    @Nested
    class TheGate {
        @Test
        void opensWhenAllPausesHaveEnded() {
            var gate = new Gate(null, null);
            gate.extend(Gate.Reason.FULL, NOON.plusSeconds(9));
            gate.extend(Gate.Reason.FULL, NOON.plusSeconds(3));
            assertEquals(NOON.plusSeconds(9), gate.rowsFrom());
            assertEquals(Instant.MIN, gate.lookUpsFrom());

            gate.extend(Gate.Reason.RETRY_AFTER, NOON.plusSeconds(20));
            assertEquals(List.of(NOON.plusSeconds(20), NOON.plusSeconds(20)),
                    List.of(gate.rowsFrom(), gate.lookUpsFrom()));
        }

        @Test
        void spacesStartsByTheRateWithoutDriftOrCatchingUp() {
            var even = new Gate(null, new Rate(seconds(2)));

            even.noteStart(NOON);
            assertEquals(NOON.plusSeconds(2), even.rowsFrom());
            even.noteStart(NOON.plusMillis(2100));
            assertEquals(NOON.plusSeconds(4), even.rowsFrom());
            even.noteStart(NOON.plusSeconds(60));

            assertTrue(even.rowsFrom().isAfter(NOON.plusMillis(61_700)));
            assertFalse(even.rowsFrom().isAfter(NOON.plusSeconds(62)));
        }
    }

    @Nested
    class ServerHealth {
        private final Gate gate = new Gate(null, null);
        private final Health health = new Health(new Backoff(seconds(10), seconds(60), 3), gate);

        static final List<Story> STORIES = Story.of("""
                five failures in a row pause all starts
                  failed 4 at 0, open at 0
                  failed 1 at 0, closed at 0, closed at 100, opens never

                a probe is due after the back-off
                  probe never, failed 5 at 0, probe 2..3

                requests in flight when starts paused delay no probe
                  failed 5 at 0, failed 60 at 1 sent -1, probe 2..3

                an answer resets the count of failures
                  failed 9 at 0, answered 0, open at 0, probe never
                  failed 4 at 0, open at 0

                only an answer to a later request ends a doubt
                  doubted 0 sent -2, doubted 1 sent -1, doubts 2
                  answered 0, doubts 2, probe 2
                  answered 1, doubts 0, probe never

                a doubt is followed by a probe, also if another is under way
                  failed 5 at 0, doubted 9 sent -1, answered 3, probe 10

                five minutes without any answer stop the batch
                  failed 5 at 0, continues at 300, continues at 301 while 1 runs, stops at 301

                an answer restarts the five minutes
                  failed 5 at 0, answered 0, failed 5 at 200, continues at 499, stops at 501

                a server that asks for a pause gets it
                  pause 90, pause 30, closed at 89, opens 90, open at 90

                a requested pause does not count as silence
                  failed 5 at 0, pause 600, continues at 599, continues at 600
                  failed 1 at 601, pause 1201, stops at 601

                a minute of refusals while nothing runs stops the batch
                  refused 0, refused 15, refused 30, refused 45, refused 60, continues at 60
                  refused 61, stops at 61

                refusals while our runs are active do not stop the batch
                  refused 0, refused 30 while 2 run, refused 70, continues at 70

                a run that is let in ends the minute
                  refused 0, served 0, refused 70, continues at 70
                """);

        @ParameterizedTest(name = "{0}")
        @FieldSource("STORIES")
        void determinesWhetherTheBatchPausesProbesOrStops(Story story) {
            for (var step : story.steps()) {
                var words = step.split(" ");
                var numbers = Pattern.compile("-?\\d+").matcher(step).results()
                        .map(number -> Integer.valueOf(number.group())).toList();
                var time = numbers.isEmpty() ? Instant.MAX : NOON.plusSeconds(numbers.getFirst());
                int last = numbers.size() < 2 ? 0 : numbers.getLast();
                switch (words[0]) {
                    case "failed" -> {
                        var at = NOON.plusSeconds(numbers.get(1));
                        for (int each = 0; each < numbers.getFirst(); each++)
                            health.noteFailure(at, numbers.size() < 3 ? at : NOON.plusSeconds(last));
                    }
                    case "doubted" -> health.noteUnseenEnd(time, NOON.plusSeconds(last));
                    case "answered" -> health.noteResponse(time);
                    case "pause" -> gate.extend(Gate.Reason.RETRY_AFTER, time);
                    case "refused" -> health.noteRefusal(time, last);
                    case "served" -> health.noteSuccess(time);
                    case "open", "closed" -> assertEquals(words[0].equals("open"),
                            !gate.rowsFrom().isAfter(time), step);
                    case "opens" -> assertEquals(time, gate.lookUpsFrom(), step);
                    case "probe" -> {
                        assertFalse(health.nextProbe().isBefore(time), step);
                        assertFalse(last > 0 ? health.nextProbe().isAfter(NOON.plusSeconds(last))
                                : health.nextProbe().isAfter(time), step);
                    }
                    case "doubts" -> assertEquals(numbers.getFirst(), health.unseenEnds(), step);
                    case "continues" -> assertEquals(Optional.empty(), health.verdict(time, last), step);
                    case "stops" -> assertEquals(Exit.STOPPED, health.verdict(time, last).orElseThrow().exit(), step);
                    default -> throw new IllegalArgumentException(step);
                }
            }
        }

        @Test
        void reportsHowLongTheBatchStaysPaused() {
            assertEquals(Optional.empty(), note(NOON));

            for (int time = 0; time < 5; time++) health.noteFailure(NOON, NOON);
            assertTrue(note(NOON).orElseThrow().endsWith(Text.seconds(Duration.between(NOON, health.nextProbe()))));
            assertTrue(note(health.nextProbe()).orElseThrow().endsWith("now"));

            gate.extend(Gate.Reason.RETRY_AFTER, NOON.plusSeconds(40));
            assertTrue(note(NOON.plusSeconds(10)).orElseThrow().contains("30 s"));
        }

        private Optional<String> note(Instant now) {
            return gate.note(now, health.nextProbe());
        }

        @Test
        void countsOutagesFromTheFifthFailureToTheLastForAtMostFiveMinutes() {
            for (int failure = 0; failure < 4; failure++) health.noteFailure(NOON.plusSeconds(failure), NOON);
            health.noteResponse(NOON.plusSeconds(4));
            assertEquals(Duration.ZERO, health.outages());

            failEachSecond(10, 30);
            assertEquals(seconds(15), health.outages());
            health.noteResponse(NOON.plusSeconds(30));
            failEachSecond(100, 900);
            assertEquals(seconds(300), health.outages());
        }

        private void failEachSecond(int from, int to) {
            for (int second = from; second < to; second++)
                health.noteFailure(NOON.plusSeconds(second), NOON.plusSeconds(second));
        }

        @Test
        void increasesTheDelayBetweenProbesToAtMostThreeSeconds() {
            var quick = new Health(new Backoff(seconds(1), seconds(60), 3), new Gate(null, null));
            for (int time = 0; time < 6; time++) quick.noteFailure(NOON, NOON);
            assertFalse(quick.nextProbe().isBefore(NOON.plusSeconds(1)));

            for (int time = 0; time < 20; time++) quick.noteFailure(NOON, NOON);

            assertEquals(NOON.plusSeconds(3), quick.nextProbe());
        }
    }

    @Nested
    class ResponseModePolicy {
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
        void startsWithTheRequestedThePreviousOrTheDefaultMode(AppKind app, String server, Mode asked,
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
                WORKFLOW | 1.14.2 | AUTO      | -         | NO_RESPONSE/26                          | STREAMING
                WORKFLOW | 1.14.2 | AUTO      | -         | CUT/60                                  | STREAMING
                WORKFLOW | 1.14.2 | AUTO      | -         | NO_RESPONSE/25, NO_RESPONSE/1, TIMED_OUT/300 | BLOCKING
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
        void changesTheModeOnlyIfStreamsAreRefusedOrAProxyCutsRuns(AppKind app, String server, Mode asked,
                Mode earlier, String answers, Mode mode) {
            var policy = new ModePolicy(asked, Optional.ofNullable(earlier), app, server);
            var before = policy.mode();
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
                policy.observe(response, seconds(number)).ifPresent(said::add);
            }

            assertEquals(mode, policy.mode());
            assertEquals(mode == before ? 0 : 1, said.size(), said::toString);
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                earlier, now,    listing
                1.14.2,  1.16.0, FROM_START
                1.9.2,   1.14.2, NOT_KNOWN
                1.14.2,  1.9.2,  NOT_KNOWN
                '',      1.14.2, NOT_KNOWN
                """)
        void expectsEarlierRunsToBeListedOnlyIfBothVersionsListThem(String earlier, String now, Listing listing) {
            var policy = new ModePolicy(Mode.AUTO, Optional.empty(), AppKind.WORKFLOW, now);

            assertEquals(listing, policy.listing(earlier));
        }
    }
}
