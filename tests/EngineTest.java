package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Response.RunStatus;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// The engine, with scripted responses of the workflow and a clock moved by hand.
final class EngineTest {
    @Nested
    class TheEngine extends Story.Sessions {
        @Test
        void writesAResultLineWithInputsAndOutputsForEverySuccess() throws Exception {
            var scene = new Scene(folder, "id,text\na,hello\nb,wörld\n");

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("a", "b"), scene.resultIds());
            assertEquals("wörld", scene.results().get(1).path("inputs").path("text").asText());
            assertEquals("yes", scene.results().get(0).path("outputs").path("answer").asText());
            assertEquals("run-a", scene.results().get(0).path("workflow_run_id").asText());
            assertEquals(List.of(), scene.retryIds());
        }

        /// `retri none` would hold whatever happens.
        @Test
        void isNotCheckedByAStoryWithAMisspeltFact() {
            var story = Story.of("a\ngiven rows a b\nthen retri none").getFirst();

            assertTrue(assertThrows(IllegalArgumentException.class, () -> story.play(folder)).getMessage()
                    .contains("retri"));
        }

        static final List<Story> STORIES = Story.of("""
                a waiting row frees its slot
                  given   rows a b
                  answers a: failed Rate Limit Error
                  then    sent a b a

                an answer too large for memory leaves its row unknown
                  given   rows a b, always
                  answers a: unreadable run-a
                  then    sent a b, looked 0, a unknown, ended run-a, retry a, results b

                a run too large for memory is recovered in a session with enough memory
                  answers a: cut run-a
                  finds   silent unreadable run-a
                  then    looked 1, a unknown, ended run-a, error too large
                  then    a unknown unknown
                  finds   succeeded run-a
                  then    a unknown unknown succeeded, runs run-a, sent none

                a row whose run is too large is sent again on request
                  answers a: unreadable run-a, succeeded run-b
                  finds   silent unreadable run-a
                  then    a unknown
                  given   resend
                  then    a unknown resent succeeded, runs run-b

                a row that exceeds its retries fails
                  answers each: failed Connection Error
                  then    a again again again failed, retry a

                the retry list is in the order of the file
                  given   rows z m a ok, slots 3
                  answers z: 3s failed no; m: 2s failed no; a: 1s failed no; ok: 1s succeeded own
                  then    retry z m a

                the retry list is gone when nothing is left
                  answers a: failed no such city
                  then    retry a
                  given   listed
                  then    retry none

                no more runs than slots are active at once
                  given   rows a b c d e f g, slots 3
                  answers each: 1s succeeded own
                  then    busiest 3, done 7

                a throttled row uses no retry
                  given   rows a b, backoff 1 2 0
                  answers a: throttled, throttled, throttled
                  then    a throttled throttled throttled succeeded, retries 0 0, limits 1 1 1

                runs that were cut count as running when another is refused
                  given   rows a b c, slots 3
                  answers a: cut run-a; b: cut run-b; c: throttled
                  finds   running own, running own, running own, running own, running own, succeeded own
                  then    limits 2, done 3

                a server that refuses for a minute while nothing runs stops the batch
                  answers each: throttled
                  then    stop STOPPED, hint hint:, passed 60..180, retry none

                a requested pause of ten minutes is kept and does not count as silence
                  given   rows 1 2 3 4 5 6 7 8, slots 8, timeout 3600
                  answers each: later 600
                  finds   succeeded own
                  then    done 8, passed 600..700

                an unreachable server uses no retry
                  given   backoff 1 60 0
                  answers a: unsent, unsent, unsent
                  then    a unreached unreached unreached succeeded

                a server that does not answer for five minutes stops the batch
                  given   rows a b, probes-fail
                  answers each: unsent
                  then    stop STOPPED, passed 300..400, retry none

                a cut run that succeeded is recovered and not run again
                  answers a: cut
                  finds   running run-7, running run-7, succeeded run-7
                  then    sent a, harvest run-7, looks running running succeeded, runs run-7

                an unidentified run is also reported as late
                  given   CHATFLOW
                  answers a: cut, failed Rate Limit Error
                  finds   UNCONFIRMED: failed Rate Limit Error; RESEND: absent, unanswered; LATE: unanswered
                  then    saw unanswered, retry a, sent a a

                a run that appears before the next attempt is used instead
                  answers a: cut, failed Rate Limit Error
                  finds   UNCONFIRMED: failed Rate Limit Error; RESEND: absent, succeeded run-7
                  then    sent a a, runs run-7, late run-7

                a row that breaks the server each time fails after its retries
                  given   rows a b
                  answers a: broken, broken, broken, broken
                  then    sent a b a a a, retry a

                a row that failed without ever starting is sent when it is retried
                  given   backoff 1 60 0
                  answers a: http 502, succeeded run-8
                  then    retry a
                  given   listed
                  then    results a

                an active run in the list of an unknown version does not show that other runs never started
                  given   rows a b, server unknown
                  answers a: cut; b: cut
                  finds   a: running run-7, succeeded run-7; b: absent
                  then    b unknown

                a failed run is retried after its back-off
                  given   backoff 10 60 3
                  answers a: failed Rate Limit Error, failed Rate Limit Error
                  then    start 1 5..11, start 2 15..31, retries 2, a again again succeeded

                the retry list exists while the batch runs
                  given   rows a b
                  answers a: failed no such city; b: dies
                  then    dies, retry a

                a failure that a crash left unconfirmed is looked up at the next start
                  given   STREAMING
                  answers a: began run-7 madeUp Rate Limit Error
                  finds   dies
                  then    dies
                  finds   succeeded run-7
                  then    sent none, runs run-7

                the next start looks for all attempts that counted as not started
                  answers each: cut
                  finds   RESEND: absent, silent rejected, absent
                  given   crash 3
                  answers each: succeeded own
                  finds   absent
                  then    users 3, sent a

                a run that appears after a look-up with an unexpected answer is late
                  answers each: cut
                  finds   RESEND: absent, silent rejected, succeeded run-1
                  then    late run-1, runs run-1

                a row that must run again does so although a run of an earlier attempt has appeared
                  answers a: cut, succeeded run-8, succeeded run-9
                  finds   absent
                  then    a not_started succeeded
                  given   again a
                  finds   succeeded run-7
                  then    sent a, runs run-8 run-9, late run-7, harvest none

                a failed row that must run again does so although a run of an earlier attempt has appeared
                  answers a: cut, failed no city, succeeded run-9
                  finds   absent
                  then    a not_started failed
                  given   again a
                  finds   succeeded run-7
                  then    sent a, runs run-9, late run-7, harvest none

                a look-up notifies observers of the end of a run
                  answers a: cut run-7
                  finds   succeeded run-7
                  then    heard run-7

                the text of a stream stays with its worker
                  given   STREAMING
                  answers a: chunk Good succeeded run-7
                  then    runs run-7, heard run-7

                a pause that the server asks for delays all starts while active runs continue
                  given   rows a b c d, slots 2
                  answers a: later 120; each: 30s succeeded own
                  then    at 0 0 120 120 157, took b 30, said 1, done 4

                a longer pause ends the session
                  given   rows a b c, slots 2
                  answers a: later 86400; b: 30s succeeded own
                  then    stop STOPPED, hint to wait until, sent a b, results b, retry none, said 0

                simultaneous refusals are reported once
                  given   rows a b c, slots 3
                  answers a: 1ms later 90; b: 2ms later 90; c: 3ms later 90
                  then    said 1, done 3, start 3 127..128

                look-ups also wait for the pause that a server asks for
                  answers a: later 40
                  finds   silent later 100, succeeded run-a
                  then    passed 140..141, said 2, looked 2, runs run-a

                a chatflow's run is not looked up within two seconds of its request
                  given   CHATFLOW
                  answers a: 20s cut
                  finds   succeeded run-7
                  then    passed 22, runs run-7

                a workflow's run is looked up at once
                  answers a: 20s cut
                  finds   succeeded run-7
                  then    passed 20, runs run-7

                an attempt of an earlier session of a chatflow is looked up at once though the clock was set back
                  given   CHATFLOW, crash 1, clock -3600
                  finds   succeeded run-7
                  then    passed 2, sent none

                an attempt of an earlier session of a chatflow is looked up at once though the clock was set forward
                  given   CHATFLOW, crash 1, clock 3600
                  finds   succeeded run-7
                  then    passed 2, sent none

                an attempt of an earlier session of a workflow is looked up at once though the clock was set back
                  given   crash 1, clock -3600
                  finds   succeeded run-7
                  then    passed 0, sent none

                the start of a run counts as the server reports it if that is between the sending and the first look
                  answers a: 10s http 504
                  finds   running run-a since 6
                  then    a unknown, took a 306..307

                a server's clock that is behind moves a start to the sending at most
                  answers a: 10s http 504
                  finds   running run-a since -3590
                  then    a unknown, took a 300..301

                a server's clock that is ahead moves a start to the first look at most
                  answers a: 10s http 504
                  finds   running run-a since 3610
                  then    a unknown, took a 310..311

                the time of a run that waited for a connection counts from its own start
                  answers a: 300s overdue
                  finds   running run-a since 299
                  then    a unknown, took a 599..601, error 5 min 0 s
                """);

        @Test
        void looksUpARunInTheNextSessionIfMemoryRanOut() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.answer = (_, _) -> {
                throw new OutOfMemoryError("as if");
            };

            assertThrows(OutOfMemoryError.class, scene::play);

            assertEquals(List.of("a"), scene.ids());
            assertEquals(List.of(), scene.log("end"));
            scene.found = _ -> ended(succeeded("run-a"));
            scene.answer = Answer.byRow(Map.of());
            assertEquals(Optional.empty(), scene.play());
            assertEquals(List.of("a", "b"), scene.ids());
            assertEquals(Set.of("run-a", "run-b"), Set.copyOf(scene.resultRuns()));
        }

        @Test
        void adaptsConcurrencyToAServerThatRunsOnlyTwoRowsAtOnce() throws Exception {
            var scene = Scene.numbered(folder, 20);
            scene.slots = 6;
            scene.backoff = new Backoff(seconds(1), seconds(4), 0);
            scene.answer = (attempt, _) -> {
                if (scene.busy > 2) return THROTTLED;
                scene.world.pass(seconds(3));
                return succeeded("run-" + attempt.row().id());
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(20, scene.resultIds().size());
            assertTrue(scene.log("throttle").size() < 20, "throttled " + scene.log("throttle").size() + " times");
            assertEquals(2, scene.log("throttle").getLast().path("limit").asInt());
        }

        @ParameterizedTest
        @ValueSource(strings = {"{\"answer\":\"\uFFFD\"}", "{\"answer\":[\"half: \\ud83d\"]}"})
        void reportsDamagedCharactersOnlyOnceWithTheIdOfTheRow(String outputs) throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.answer = (attempt, _) -> new Response.Ran(run("run-" + attempt.row().id()), RunStatus.SUCCEEDED,
                    Given.outputs(outputs), "", "workflow-1", succeeded("x").usage());

            scene.play();

            assertEquals(1, scene.said.size(), scene.said::toString);
            assertTrue(scene.said.getFirst().contains("row a") && scene.said.getFirst().contains("U+FFFD"));
            assertTrue(scene.results().getLast().path("outputs").toString().contains("\uFFFD"));
        }

        @Test
        void sendsOnlyOneProbeAtATimeWhileTheServerIsDown() throws Exception {
            var scene = Scene.numbered(folder, 30);
            scene.slots = 5;
            var probing = new AtomicInteger();
            var together = new TreeSet<Integer>();
            var away = new Response.NotSent("connection refused", "");
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(1));
                return scene.probes.size() < 7 ? away : succeeded("run-" + attempt.row().id());
            };
            scene.probed = () -> {
                together.add(probing.incrementAndGet());
                scene.wait(seconds(1));
                probing.decrementAndGet();
                return scene.probes.size() < 7 ? Optional.of(away) : Optional.empty();
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(Set.of(1), together);
            assertEquals(7, scene.probes.size());
            assertTrue(scene.sent.size() < 40, "rows asked whether the server is back");
            assertEquals(30, scene.resultIds().size());
        }

        @Test
        void rethrowsAnUnexpectedExceptionOfAWorker() throws Exception {
            var scene = Scene.of(folder, "a");
            var bug = new IndexOutOfBoundsException("7");
            scene.answer = (_, _) -> {
                throw bug;
            };

            var problem = assertThrows(IllegalStateException.class, scene::play);

            assertEquals(bug, problem.getCause());
        }

        @Test
        void stopsTheBatchAndReportsTheLineIfTheCsvIsTruncated() throws Exception {
            var ids = IntStream.range(0, 2_000).mapToObj("%063d"::formatted).toArray(String[]::new);
            var scene = Scene.of(folder, ids); // more than is read ahead
            scene.slots = 2;
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(1));
                if (scene.sent.size() == 2) shorten(scene.csv, 3 + 1_500 * 64);
                return succeeded("run-" + attempt.row().id());
            };

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.STOPPED, stop.exit());
            assertTrue(stop.text().contains("data.csv:1502") && stop.text().contains("\nhint: "), stop.text());
            assertEquals(scene.ids(), scene.resultIds());
            assertEquals(List.of(stop.what()), Scene.texts("why", scene.log("stop")));
        }

        private static void shorten(Path csv, long bytes) {
            try (var file = FileChannel.open(csv, StandardOpenOption.WRITE)) {
                file.truncate(bytes);
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
        }

        @Test
        void showsTheWaitUntilTheNextRowInTheProgressLine() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            var shown = new HashSet<String>();
            scene.wait = seconds(5);
            scene.watched = tally -> shown.addAll(List.of(Progress.line(tally, 1000).split(" · ")));

            scene.play();

            assertTrue(shown.contains("next row in 5 s"), shown::toString);
        }

        @Test
        void reportsANewWorkflowVersionOnceAndHowToPinTheOldOne() throws Exception {
            var ids = new ArrayList<String>();
            var said = new ArrayList<String>();
            for (var version : List.of("workflow-1", "workflow-2", "workflow-1", "workflow-1")) {
                ids.add("row-" + ids.size());
                var scene = Scene.of(folder, ids.toArray(String[]::new));
                scene.answer = (attempt, _) -> new Response.Ran(run(attempt.row().id()), RunStatus.SUCCEEDED,
                        outputs("{}"), "", version, Usage.NONE);
                scene.play();
                said.add(String.join("", scene.said)
                        .replaceFirst("(?s).* from (\\S+) to (\\S+)\\. (--workflow-id \\S+) .*", "$1 $2 $3"));
            }

            assertEquals(List.of("", "workflow-1 workflow-2 --workflow-id workflow-1",
                    "workflow-2 workflow-1 --workflow-id workflow-2", ""), said);
        }

        /// Each line is one row: the responses to its attempts, the results of its look-ups (the last one repeats), the
        /// outcomes of its attempts, and the minimum and maximum number of seconds.
        @ParameterizedTest(name = "{0} {1}: {2} / {3}")
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", delimiter = '|', textBlock = """
                mode      | server | answers                                           | found                             | ends                   | least | most
                BLOCKING  | 1.14.2 | cut run-7, succeeded run-8                        | failed Rate Limit Error           | again, succeeded       | 0     | 2
                BLOCKING  | 1.14.2 | failed Rate Limit Error                           | succeeded run-7                   | again, succeeded       | 0     | 1
                BLOCKING  | 1.14.2 | cut, succeeded run-8                              | absent                            | not_started, succeeded | 30    | 60
                STREAMING | 1.14.2 | cut                                               | absent                            | unknown                | 300   | 330
                BLOCKING  | 1.9.2  | cut                                               | absent                            | unknown                | 300   | 330
                STREAMING | 1.9.2  | cut                                               | absent                            | unknown                | 0     | 2
                BLOCKING  | 1.14.2 | http 504                                          | running run-7                     | unknown                | 300   | 301
                BLOCKING  | 1.14.2 | stopped run-7                                     | stopped run-7                     | failed                 | 2     | 3
                BLOCKING  | 1.14.2 | cut run-7                                         | silent, silent, succeeded run-7   | succeeded              | 1     | 3
                BLOCKING  | 1.14.2 | overdue                                           | running run-7                     | unknown                | 0     | 1
                STREAMING | 1.14.2 | overdue run-7                                     | succeeded run-7                   | succeeded              | 0     | 1
                STREAMING | 1.14.2 | contradicted run-7                                | running run-7, succeeded run-7    | succeeded              | 0     | 2
                STREAMING | 1.14.2 | error name is required in input form              | succeeded run-7                   | succeeded              | 0     | 1
                STREAMING | 1.16.0 | madeUp Workflow stream ended without a terminal event | running run-7, succeeded run-7 | succeeded             | 0     | 2
                STREAMING | 1.16.0 | madeUp Rate Limit Error                           | running run-7, succeeded run-7    | succeeded              | 0     | 2
                STREAMING | 1.16.0 | madeUp                                            | running run-7, succeeded run-7    | succeeded              | 0     | 2
                STREAMING | 1.16.0 | madeUp Rate Limit Error                           | running run-7                     | unknown                | 300   | 330
                STREAMING | 1.16.0 | madeUp name is required in input form             | absent                            | failed                 | 0     | 2
                STREAMING | 1.16.0 | madeUp [Errno 111] Connection refused, succeeded run-8 | absent                       | again, succeeded       | 0     | 2
                STREAMING | 1.16.0 | madeUp Workflow stream ended without a terminal event | absent                        | unknown                | 300   | 330
                STREAMING | 1.9.2  | madeUp Workflow stream ended without a terminal event | absent                        | unknown                | 0     | 2
                STREAMING | 1.16.0 | madeUp Rate Limit Error                           | failed no such city               | failed                 | 0     | 1
                """)
        void derivesARowsOutcomeFromItsResponsesAndLookUps(Mode mode, String server, String answers, String found,
                String ends, long least, long most) throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = mode;
            scene.server = server;
            scene.answer = Answer.inTurn(Stream.of(answers.split(", ")).map(Story::response)
                    .toArray(Response[]::new));
            var looks = new ArrayDeque<>(List.of(found.split(", ")));
            scene.found = _ -> Story.found(scene, looks.size() > 1 ? looks.remove() : looks.peek());

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of(ends.split(", ")), scene.outcomes("a"));
            assertEquals(answers.split(", ").length, scene.sent.size());
            assertEquals(ends.endsWith("succeeded") ? List.of() : List.of("a"), scene.retryIds());
            Story.isIn(least + ".." + most, scene.took("a"), "a");
        }

        @Test
        void recordsRunAndPriceFromTheStreamIfALookUpConfirmsTheFailure() throws Exception {
            var priced = new Response.Ran(run("run-7"), RunStatus.FAILED, outputs("{}"),
                    "Rate Limit Error", "workflow-1", new Usage(1, 3, new Cost(10, BigDecimal.ONE, "USD")));
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = Answer.inTurn(priced, succeeded("run-8"));
            scene.found = _ -> ended(failed("Rate Limit Error"));

            scene.play();

            assertEquals(List.of("again", "succeeded"), scene.outcomes("a"));
            assertEquals("run-7", scene.log("end").getFirst().path("run").asText());
            assertEquals(1, scene.log("end").getFirst().path("price").asInt());
            assertEquals(List.of(), scene.log("harvest"));
            assertEquals(1, scene.looked.size());
        }
    }

    /// A workflow whose runs have a price in Dify's database. Only streams report it.
    @Nested
    class ABatchWithACostLimit {
        private static final int ROWS = 400, SLOTS = 5;

        @TempDir Path folder;
        private final Map<String, BigDecimal> database = new HashMap<>(); // by the attempt's user
        private Scene scene;

        /// A session an hour after the last one, whose workers are gone if it was killed.
        private Scene session(int number, Path batch, Random random, IntUnaryOperator price) throws IOException {
            if (scene != null) scene.world.end();
            scene = Scene.numbered(batch, ROWS);
            scene.world.startAt(NOON.plusSeconds(3600L * number));
            scene.slots = SLOTS;
            scene.answer = (attempt, _) -> {
                var cost = BigDecimal.valueOf(price.applyAsInt(attempt.row().index()));
                database.put(attempt.user(), cost);
                scene.world.pass(Duration.ofMillis(500 + random.nextInt(4_000)));
                return paid(attempt.user(), attempt.mode() == Mode.STREAMING ? new Cost(10, cost, "USD") : Cost.of(10));
            };
            scene.found = question -> database.containsKey(question.attempt().user())
                    ? ended(paid(question.attempt().user(), Cost.of(10))) : ABSENT;
            return scene;
        }

        /// Runs 25 rows without prices, then streams up to the limit. Three sessions are killed.
        private Optional<Stop> play(long seed, int limit, IntUnaryOperator price) throws Exception {
            var random = new Random(seed);
            var batch = Files.createTempDirectory(folder, "batch");
            session(0, batch, random, price).selection =
                    new Batch.Selection(Set.of(), List.of(), 25, OptionalLong.empty());
            assertEquals(Optional.empty(), scene.play());
            for (int number = 1; number <= 4; number++) {
                session(number, batch, random, price).mode = Mode.STREAMING;
                scene.maxCost = BigDecimal.valueOf(limit);
                if (number < 4) scene.crash(3 + random.nextInt(12));
            }
            return scene.play();
        }

        private static Response.Ran paid(String run, Cost cost) {
            return new Response.Ran(run(run), RunStatus.SUCCEEDED, outputs("{}"), "", "workflow-1",
                    new Usage(1, 1, cost));
        }

        private BigDecimal spent() {
            return database.values().stream().reduce(BigDecimal.ZERO, BigDecimal::add);
        }

        @ParameterizedTest
        @ValueSource(longs = {1, 2, 3, 4, 5, 6, 7, 8})
        void countsRunsWithoutAPriceWithTheMeanPriceOfTheOthers(long seed) throws Exception {
            var stop = play(seed, 150, _ -> 1).orElseThrow();

            assertEquals(Exit.STOPPED, stop.exit());
            assertTrue(spent().intValue() >= 150 && spent().intValue() <= 150 + SLOTS, spent()::toString);
            assertTrue(scene.said.getFirst().matches("Note: \\d\\d runs .*"), scene.said::toString);
        }

        @ParameterizedTest
        @ValueSource(longs = {1, 2, 3, 4, 5, 6, 7, 8})
        void overrunsTheLimitByAQuarterAtMostIfPricesDiffer(long seed) throws Exception {
            var random = new Random(-seed);
            var expensive = IntStream.range(0, ROWS).filter(_ -> random.nextInt(3) == 0).boxed()
                    .collect(Collectors.toSet());

            assertEquals(Exit.STOPPED, play(seed, 600, row -> expensive.contains(row) ? 10 : 1).orElseThrow().exit());

            assertTrue(spent().intValue() <= 1.25 * 600 + 10 * SLOTS, spent()::toString);
        }

        @Test
        void saysAtItsStartThatNothingIsCountedAsLongAsNoRunHasAPrice() throws Exception {
            scene = Scene.numbered(folder, 3);
            scene.play();
            scene.mode = Mode.STREAMING;
            scene.maxCost = BigDecimal.ONE;
            Files.writeString(scene.csv, Files.readString(scene.csv) + "4\n");

            scene.play();

            assertTrue(scene.said.getFirst().matches("Note: 3 runs .*--max-tokens.*"), scene.said::toString);
        }
    }
}
