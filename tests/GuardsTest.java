package difyexec;

import difyexec.DifyExec.Limits.Ceiling;
import org.junit.jupiter.api.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Response.RunStatus;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// Guards that no other test noticed when someone removed them.
final class GuardsTest extends WholeCommand {
    @Nested
    class ARowThatChangesAgainAndAgain {
        @Test
        void keepsTheResultOfItsLastCellsAndIsSentOncePerChange() throws IOException {
            var dify = new Simulated("--dify", "1.16.1", "--latency", "10ms");
            for (int change = 0; change < 4; change++) {
                csv("id,text", "1,text " + change);
                call(dify.settings(), typed("run", "--rerun-changed")).exits(0);
                assertEquals("text " + change, result("1").at("/inputs/text").asText());
                assertEquals(change + 1, dify.count("started"));
            }
            assertEquals(4, results().size());
            call(dify.settings(), typed("run")).exits(0);
            assertEquals("text 3", result("1").at("/inputs/text").asText());
            assertEquals(4, dify.count("started"));
        }
    }

    @Nested
    class AnInvariant {
        /// A row counts as succeeded by mistake, after the session has chosen it.
        @Test
        void stopsTheSessionBeforeAnythingElseIsSentAndTheNextOneResumes() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            try (var writer = scene.open()) {
                scene.watched = _ -> writer.batch.index().setStatus(1, RowStatus.SUCCEEDED);

                assertThrows(Invariant.class, () -> scene.play(writer));
            }
            assertEquals(1, scene.sent.size());

            var next = Scene.of(folder, "a", "b", "c");
            next.found = _ -> Given.ended(succeeded("run-a"));
            assertEquals(Optional.empty(), next.play());
            assertEquals(List.of("b", "c"), next.sent.stream().map(sent -> sent.row().id()).toList());
        }

        /// Mutants break what an invariant guards, one by one, and this session then ends with it.
        @Test
        void holdsForRowsThatSucceedFailAndAreLookedUp() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e");
            scene.slots = 2;
            scene.answer = (attempt, _) -> {
                scene.wait(seconds(1));
                var id = attempt.row().id();
                if (id.equals("a")) return cut(Symptom.NO_RESPONSE);
                if (id.equals("b")) return failed("no such city");
                return new Response.Ran(run("run-" + id), RunStatus.SUCCEEDED, outputs("{}"), "", "workflow-1",
                        new Usage(1, 1, new Cost(-5, BigDecimal.TEN.negate(), "USD")));
            };
            scene.found = question -> Given.ended(question.attempt().row().id().equals("a") ? succeeded("run-a")
                    : failed("no such city"));

            assertEquals(Optional.empty(), scene.play());
            assertEquals(4, scene.tally.succeeded());
            scene.play();

            assertEquals(List.of("a", "b", "c", "d", "e", "b"),
                    scene.sent.stream().map(sent -> sent.row().id()).toList());
        }

        /// The system's clock is set back by an hour when the second row is sent.
        @Test
        void holdsWhenTheClockIsSetBack() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            var zero = scene.world.now();
            var clock = Times.neverBack(() -> scene.world.now().minus(Duration.ofHours(scene.sent.size() / 2)),
                    () -> Duration.between(zero, scene.world.now()).toNanos(), Optional::empty);
            scene.ports = Optional.of(new Engine.Ports(scene, scene, clock, scene.world.mailbox, scene.world,
                    scene.halted::countDown));
            scene.answer = (attempt, _) -> {
                scene.wait(seconds(1));
                return succeeded("run-" + attempt.row().id());
            };

            assertEquals(Optional.empty(), scene.play());
            assertEquals(3, scene.tally.succeeded());
        }

        @Test
        void isAnInternalErrorWithAFileForAReport() throws IOException {
            var err = new StringWriter();
            var line = commandLine(env(Map.of("DIFY_API_KEY", "app-s3cr3t-0f-the-test")));
            line.addSubcommand("broken", new Broken()).setErr(new PrintWriter(err));
            line.setExecutionExceptionHandler(line.getExecutionExceptionHandler());

            assertEquals(Exit.BUG.code, line.execute("broken"));

            assertTrue(err.toString().contains("internal error: nothing holds"), err.toString());
            var file = Path.of(err.toString().replaceAll("(?s).*attach (\\S+\\.txt) .*", "$1"));
            var report = Files.readString(file);
            Files.delete(file);
            assertTrue(report.contains(NAME_AND_VERSION) && report.contains("nothing holds"), report);
            assertTrue(report.contains("Broken.call"), report);
        }

        @picocli.CommandLine.Command
        static class Broken implements Callable<Integer> {
            @Override
            public Integer call() {
                Invariant.hold(false, "nothing holds");
                return 0;
            }
        }
    }

    @Nested
    class ARefusal {
        /// A server that rejects rows shows nothing about how many it could run.
        @Test
        void addsNoSlot() throws Exception {
            var scene = Scene.numbered(folder, 60);
            scene.slots = 4;
            scene.maxFailures = new Ceiling(1000, 0);
            var isThrottled = new AtomicBoolean();
            scene.answer = (_, _) -> {
                scene.wait(seconds(1));
                return isThrottled.getAndSet(true) ? http(400, "invalid_param", "no") : THROTTLED;
            };

            scene.play();

            assertEquals(60, scene.tally.done());
            assertTrue(scene.pace.slots() < 4, () -> scene.pace.slots() + " slots");
        }
    }

    @Nested
    class ALimit {
        static final List<Story> STORIES = Story.of("""
                the tokens of an attempt that is retried count
                  given   rows a b c, tokens 15, backoff 1 1 3
                  answers a: failed Rate Limit Error, succeeded own
                  then    stop STOPPED, sent a b

                the tokens of a retried attempt of an earlier session count
                  given   rows a b, backoff 1 1 3
                  answers a: failed Rate Limit Error; b: dies
                  then    dies, sent a b
                  given   tokens 10
                  then    stop STOPPED, sent none

                attempts that are retried are not failed rows
                  given   rows a b, failures 1 0, backoff 1 1 3
                  answers a: failed Rate Limit Error, failed Rate Limit Error, succeeded own
                  then    sent a b a a, done 2
                """);

        @TestFactory
        Stream<DynamicTest> countsEachAttempt() {
            return STORIES.stream().map(story -> DynamicTest.dynamicTest(story.name(),
                    () -> story.play(Files.createTempDirectory(folder, "story"))));
        }
    }

    @Nested
    class ALateRun {
        @Test
        void isReportedOnceEvenIfAnotherAttemptOfItsRowIsStillUnseen() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.backoff = new Backoff(Duration.ZERO, Duration.ZERO, 2);
            scene.answer = Answer.inTurn(cut(Symptom.NO_RESPONSE), cut(Symptom.NO_RESPONSE));
            var looks = new ArrayDeque<>(List.of(running("run-7"), running("run-7"), Given.ended(succeeded("run-7"))));
            scene.found = unresolved -> {
                boolean isFirst = unresolved.attempt().user().equals(scene.sent.getFirst().user());
                return isFirst && scene.sent.size() == 2 ? looks.remove() : ABSENT;
            };

            scene.play();

            assertEquals(1, scene.log("late").size());
            assertEquals(List.of("run-7"), scene.resultRuns());
        }

        /// A file whose rows have changed cannot tell the cells of the runs that are looked for.
        @Test
        void isNotLookedForInAnInputThatHasChanged() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.backoff = new Backoff(Duration.ZERO, Duration.ZERO, 2);
            scene.found = _ -> ABSENT;
            scene.answer = (_, _) -> {
                if (scene.sent.size() == 1) return cut(Symptom.NO_RESPONSE);
                Storage.withFileName(scene.csv, () -> Files.writeString(scene.csv, "id\nz\n"));
                return succeeded("run-a");
            };

            var stop = scene.play();

            assertEquals(Optional.of(Exit.STOPPED), stop.map(Stop::exit));
            assertEquals(List.of("run-a"), scene.resultRuns());
        }
    }

    @Nested
    class TheActivity {
        @Test
        void countsRowsThatWaitAndRowsThatAreLookedUp() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d");
            scene.slots = 4;
            scene.backoff = new Backoff(seconds(60), seconds(60), 2);
            scene.answer = (attempt, _) -> switch (attempt.row().id()) {
                case "a", "b" -> attempt.tries().retries() > 0 ? succeeded("run-" + attempt.row().id())
                        : failed("Rate Limit Error");
                case "c" -> cut(Symptom.NO_RESPONSE);
                default -> succeeded("run-d");
            };
            scene.found = question -> question.attempt().row().id().equals("c") ? running("run-c")
                    : Given.ended(failed("Rate Limit Error"));
            var seen = new HashSet<List<Integer>>();
            scene.watched = tally -> seen.add(List.of(tally.activity().waiting(), tally.activity().lookUps()));

            scene.play();

            assertTrue(seen.contains(List.of(2, 1)), seen::toString);
            // one of them is being looked up before it is sent again
            assertTrue(seen.contains(List.of(1, 2)), seen::toString);
        }

        @Test
        void countsARowThatIsAboutToBeSentAgainAsWaiting() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.backoff = new Backoff(seconds(60), seconds(60), 2);
            var answers = new ArrayDeque<>(List.of(cut(Symptom.NO_RESPONSE), failed("Rate Limit Error"),
                    succeeded("run-a")));
            scene.answer = (_, _) -> answers.remove();
            scene.found = question -> question.attempt().user().equals(scene.sent.getFirst().user()) ? ABSENT
                    : Given.ended(failed("Rate Limit Error"));
            var seen = new ArrayList<List<Integer>>();
            scene.watched = tally -> seen.add(List.of(tally.activity().waiting(), tally.activity().lookUps()));

            scene.play();

            assertEquals(List.of("not_started", "again", "succeeded"), scene.outcomes("a"));
            assertTrue(seen.contains(List.of(1, 0)), seen::toString);
        }
    }

    /// What a later session learns from the log.
    @Nested
    class TheHistory {
        private final Index index = new Index();
        private final History history = new History(index);

        private void take(Event... events) {
            for (var event : events) history.apply(event);
        }

        private static Event run(int second, String user) {
            return new Event.RunEvent(NOON.plusSeconds(second), "z", user, "run-" + user, "task-of-run-" + user);
        }

        private static Event look(int second, String id, String user) {
            return new Event.LookEvent(NOON.plusSeconds(second), id, user, "run-" + user, "running");
        }

        /// As of a run that fails a requirement, and was paid for.
        private static Event unmet(int second, String id, String user) {
            var seen = new Event.EndEvent.LastResponse("run-" + user, 0, "no", 1, new Cost(10, null, ""),
                    outputs("{}"), "");
            return new Event.EndEvent(NOON.plusSeconds(second), id, user, "failed", "", seen, false, 0);
        }

        private OptionalLong passedAt(String user) {
            return history.passedAt(user).stream().mapToLong(time -> Duration.between(NOON, time).toSeconds()).findAny();
        }

        @Test
        void knowsWhenTheFirstLaterStreamHasPassedOneThatIsUnknown() {
            take(session(0, "1.16.1"), attempt(1, "a", "u1"), end(2, "a", "u1", "unknown", "", "no"));
            take(attempt(10, "b", "u2"), run(11, "u2"), attempt(20, "c", "u3"), run(21, "u3"));

            assertEquals(OptionalLong.of(11), passedAt("u1"));
        }

        @Test
        void countsAStreamAsStartedWhoseRunALookUpHasShown() {
            take(session(0, "1.16.1"), attempt(1, "a", "u1"), attempt(10, "b", "u2"), look(11, "b", "u2"));

            assertEquals(OptionalLong.of(11), passedAt("u1"));
        }

        @Test
        void forgetsNoRunThatALookUpHasShown() {
            take(session(0, "1.16.1"), attempt(1, "a", "u1"), look(11, "a", "u1"), session(20, "1.16.1"));

            var unresolved = history.unresolvedByRow().get(index.find("a"));

            var lookUp = history.lookUp(unresolved, row("a"), NOON.plusSeconds(20), seconds(300));
            assertEquals(Optional.of("run-u1"), lookUp.run().map(RunRef::id));
        }

        /// The clock is set back by an hour before the second session.
        @Test
        void knowsThatEarlierSessionsWereBeforeThisOne() {
            take(session(3600, "1.16.1"), attempt(3601, "a", "u1"), attempt(3610, "b", "u2"), run(3611, "u2"));
            take(attempt(3620, "c", "u3"), session(20, "1.16.1"), attempt(30, "d", "u4"), run(31, "u4"));

            assertEquals(OptionalLong.of(20), passedAt("u1"));
            assertEquals(OptionalLong.of(31), passedAt("u3"));
        }

        /// Otherwise no session would look for the run of the second attempt.
        @Test
        void leavesNoRowOutThatWasSentAgainOnPurpose() {
            take(session(0, "1.16.1"), attempt(1, "a", "u1"), unmet(2, "a", "u1"));
            assertEquals(List.of(index.find("a")), history.paidFailures(false).boxed().toList());

            take(attempt(3, "a", "u2"));

            assertEquals(List.of(), history.paidFailures(false).boxed().toList());
        }

        @Test
        void keepsASuccessWhateverALaterAttemptOfItsRowIs() {
            history.apply(new ResultLine(outputs("{\"id\":\"a\",\"status\":\"success\",\"user\":\"u1\"}")));
            take(session(0, "1.16.1"), attempt(1, "a", "u1"), attempt(3, "a", "u2"), unmet(4, "a", "u2"));

            assertEquals(RowStatus.SUCCEEDED, index.status(index.find("a")));
            assertEquals(List.of(), history.paidFailures(false).boxed().toList());
        }

        @Test
        void countsAttemptsWithoutAnEndButNoneOfARowThatHasSucceeded() {
            history.apply(new ResultLine(outputs("{\"id\":\"c\",\"status\":\"success\",\"user\":\"u9\"}")));
            take(session(0, "1.16.1"), attempt(1, "a", "u1"), end(2, "a", "u1", "unknown", "run-1", "no"));
            take(attempt(3, "b", "u2"), attempt(4, "c", "u3"));

            assertEquals(1, history.inFlight());
        }

        @Test
        void countsARowThatIsSentAgainOnceAndItsOtherAttemptsAsRetries() {
            var figures = new Figures();
            history.addFigures(figures);
            take(session(0, "1.16.1"), attempt(1, "a", "u1"), end(2, "a", "u1", "again", "run-1", "no"));
            take(attempt(3, "a", "u2"), attempt(4, "b", "u3"));

            assertEquals(1, figures.retries());
        }

        /// The original tool has no log.
        @Test
        void takesRowsOfTheRetryListForFailedUnlessTheySucceeded() throws IOException {
            var files = BatchFiles.of(folder.resolve("results.jsonl"));
            Files.writeString(files.results(), "\uFEFF{\"id\":\"a\",\"status\":\"success\",\"outputs\":{}}\n");
            Files.writeString(files.retry(), "a\nb\n");

            History.of(files, index, List.of());

            assertEquals(List.of(RowStatus.SUCCEEDED, RowStatus.FAILED),
                    Stream.of("a", "b").map(index::find).map(index::status).toList());
        }
    }

    @Nested
    class TheWriter {
        private static final ResultLine SUCCESS = new ResultLine(
                outputs("{\"id\":\"a\",\"status\":\"success\",\"user\":\"u1\",\"seconds\":1.0}"));

        private Scene scene;
        private boolean isBroken = false;

        /// A batch whose disk may break: no results or log lines can be forced to it, only an empty file.
        private BatchWriter open(boolean breaksResultsOnly) throws IOException {
            scene = Scene.of(folder, "a", "b");
            scene.disk = (file, _) -> {
                if (isBroken && file.size() > 0 && (!breaksResultsOnly || file.size() == Files.size(scene.output)))
                    throw new IOException("the disk is broken");
            };
            return scene.open();
        }

        private BatchWriter openWithAnAttempt(boolean breaksResultsOnly) throws IOException {
            var writer = open(breaksResultsOnly);
            writer.record(session(0, "1.16.1"));
            writer.record(attempt(1, "a", "u1"));
            writer.commit(NOON, _ -> {});
            return writer;
        }

        /// Exit code 2 means that nothing was sent, and so that nothing was paid for.
        @Test
        void saysWhetherAnythingWasSentWhenItCannotWrite() throws IOException {
            var problem = new IOException("the disk is full");
            try (var writer = open(false)) {
                writer.record(session(0, "1.16.1"));
                writer.commit(NOON, _ -> {});
                writer.record(attempt(1, "a", "u1"));
                assertEquals(Exit.UNUSABLE, writer.unwritable(problem).exit());

                writer.commit(NOON, _ -> {});

                assertEquals(Exit.STOPPED, writer.unwritable(problem).exit());
                assertNotEquals(writer.unwritable(problem).hint(),
                        writer.unwritable(new LineFile.Touched(scene.output)).hint());
            }
        }

        /// A later session compares this size with that of the file, and so notices lost results.
        @Test
        void recordsTheFinalSizeOfTheResultsAtAStop() throws IOException {
            try (var writer = openWithAnAttempt(false)) {
                writer.recordSuccess(SUCCESS);

                writer.recordStop(NOON, Optional.empty());
            }

            assertEquals(Files.size(scene.output), scene.log("stop").getLast().path("results").asLong());
        }

        @Test
        void reportsResultsThatCannotBeForcedToDisk() throws IOException {
            try (var writer = openWithAnAttempt(true)) {
                writer.awaitResults();
                writer.recordSuccess(SUCCESS);
                isBroken = true;
                writer.commit(NOON, _ -> {});

                assertThrows(UncheckedIOException.class, writer::awaitResults);
            }
        }

        @Test
        void reportsTheLastLinesThatCannotBeForcedToDisk() throws IOException {
            var writer = open(false);
            writer.record(session(0, "1.16.1"));
            writer.commit(NOON, _ -> {});
            writer.recordStop(NOON, Optional.empty());
            isBroken = true;

            assertEquals(Optional.of(Exit.UNUSABLE), writer.finish(_ -> {}).map(Stop::exit));
        }
    }

    @Nested
    class ResultsThatWereLost {
        /// The log's sizes tell a later session that results were lost, although the file has grown since.
        @Test
        void areNotForgottenWhenTheFileIsLongerThanItEverWas() throws Exception {
            Scene.of(folder, "a", "b").play();
            var second = Scene.of(folder, "a", "b", "c", "d", "e", "f");
            Files.delete(second.output);
            second.slots = 4; // all other rows are sent, and end, while the first look-up waits
            second.lookTakes = seconds(60);
            second.found = _ -> {
                throw new IllegalStateException("the power fails");
            };
            assertThrows(IllegalStateException.class, second::play);
            assertEquals(List.of("c", "d", "e", "f"), second.resultIds());

            var third = Scene.of(folder, "a", "b", "c", "d", "e", "f");
            third.world.startAt(NOON.plusSeconds(60));
            third.play();

            assertEquals(List.of(), third.ids());
            assertEquals(List.of("unknown"), third.outcomes("a"));
        }
    }

    @Nested
    class AnInterruptedRequest {
        /// A request whose thread is interrupted, such as that of a command in the shell, is not sent again.
        @Test
        void isNotRepeated() throws Exception {
            rows(1);
            var requests = new AtomicInteger();
            var isThere = new CountDownLatch(1);
            var isOver = new CountDownLatch(1);
            var url = serve(_ -> {
                requests.incrementAndGet();
                isThere.countDown();
                await(isOver);
            });
            var command = Thread.ofPlatform().daemon().start(() -> {
                try {
                    call(settingsFor(url), words(List.of("check", "-i", input())));
                } catch (IOException problem) {
                    throw new UncheckedIOException(problem);
                }
            });
            await(isThere);

            try {
                command.interrupt();
                command.join();
            } finally {
                isOver.countDown();
            }
            assertEquals(1, requests.get());
        }
    }
}
