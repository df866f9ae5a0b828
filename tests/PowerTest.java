package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.api.parallel.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

/// Which data is on disk, and when.
@Tag("slow")
final class PowerTest {
    /// The engine with a disk that is slow, fails, or cannot sync data.
    @Nested
    class DiskSync {
        @TempDir Path folder;

        /// The content of each file of a scene when it was last synced to disk.
        private static class Recorder implements LineFile.Disk {
            /// Runs before the n-th time that the results or the log are synced.
            @FunctionalInterface interface Trouble {
                void before(String name, int time) throws IOException;
            }

            final Scene scene;
            final Trouble trouble;
            final Map<String, String> forced = new ConcurrentHashMap<>(Map.of("results", "", "log", ""));
            final Map<String, Integer> times = new ConcurrentHashMap<>();

            Recorder(Scene scene) {
                this(scene, (_, _) -> {});
            }

            Recorder(Scene scene, Trouble trouble) {
                this.scene = scene;
                this.trouble = trouble;
                scene.disk = this;
            }

            @Override
            public void force(FileChannel channel, boolean all) throws IOException {
                var log = scene.file(".log");
                // a new file beside them shows whether the file system can do it at all
                var name = channel.size() == 0 ? "probe" : Files.size(log) == channel.size() ? "log" : "results";
                trouble.before(name, times.merge(name, 1, Integer::sum));
                if (!name.equals("probe")) forced.put(name, Files.readString(name.equals("log") ? log : scene.output));
            }
        }

        @ParameterizedTest
        @ValueSource(ints = {1, 3})
        void aRequestIsSentOnlyAfterItsAttemptIsOnDisk(int slots) throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e");
            var disk = new Recorder(scene);
            scene.slots = slots;
            var early = new ArrayList<String>();
            scene.answer = (attempt, _) -> {
                if (!disk.forced.get("log").contains("\"" + attempt.user() + "\"")) early.add(attempt.row().id());
                return attempt.row().id().equals("b") && attempt.tries().retries() == 0 ? failed("Rate Limit Error")
                        : succeeded("run-" + attempt.row().id());
            };
            scene.found = _ -> ended(failed("Rate Limit Error"));

            scene.play();

            assertEquals(List.of(), early);
            assertEquals(6, scene.sent.size());
        }

        @Test
        void anOutcomeIsShownOnlyAfterItsResultIsOnDisk() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d");
            var disk = new Recorder(scene);
            var shown = new TreeSet<Long>();
            scene.wait = seconds(5); // the next attempt, which is synced to disk, does not follow at once
            scene.watched = tally -> {
                shown.add(tally.succeeded());
                assertTrue(disk.forced.get("results").lines().count() >= tally.succeeded());
            };

            scene.play();

            assertEquals(4, scene.tally.succeeded());
            assertEquals(Files.readString(scene.file(".log")), disk.forced.get("log"), "all is on disk at the end");
            assertEquals(Files.readString(scene.output), disk.forced.get("results"));
        }

        @ParameterizedTest
        @EnumSource(names = {"BLOCKING", "STREAMING"})
        void theOutcomeOfARowIsShownOnlyAfterItIsOnDisk(Mode mode) throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            var disk = new Recorder(scene);
            var shown = new ArrayList<String>();
            scene.mode = mode;
            scene.slots = 3;
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("b")) return failed("no such city"); // no request follows at once
                scene.world.pass(seconds(5));
                return succeeded("run-" + attempt.row().id());
            };
            scene.shown = id -> {
                shown.add(id);
                var line = id.equals("b") ? "\"outcome\":\"failed\"" : "{\"id\":\"" + id + "\"";
                assertTrue(disk.forced.get(id.equals("b") ? "log" : "results").contains(line), id);
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("a", "b", "c"), shown.stream().sorted().toList());
        }

        @Test
        void aStopIsSentOnlyAfterItIsOnDisk() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            var disk = new Recorder(scene);
            var early = new ArrayList<String>();
            scene.mode = Mode.STREAMING;
            scene.slots = 3;
            scene.grace = Duration.ZERO;
            scene.answer = (attempt, listener) -> {
                var run = run("run-" + attempt.row().id());
                listener.accept(new StreamEvent.Began(run));
                scene.world.waitFor(alarm -> scene.alarms.put(run.task(), () -> {
                    boolean isOnDisk = disk.forced.get("log").lines().anyMatch(line ->
                            line.contains("\"stop\"") && line.contains(attempt.user()));
                    if (!isOnDisk) early.add(attempt.row().id());
                    alarm.run();
                }));
                return ran(run.id(), Response.RunStatus.STOPPED, "Stopped by user.");
            };
            scene.interruptAfter(seconds(5));

            assertEquals(Exit.INTERRUPTED, scene.play().orElseThrow().exit());

            assertEquals(3, scene.stopped.size());
            assertEquals(List.of(), early);
        }

        @Test
        void linesAddedWhileTheDiskIsBusyAreSyncedTogether() throws Exception {
            var scene = Scene.numbered(folder, 20);
            var answered = new CountDownLatch(20);
            var disk = new Recorder(scene, (name, time) -> {
                if (name.equals("results") && time == 1) WholeCommand.await(answered);
            });
            scene.slots = 20;
            scene.inRealTime = true;
            scene.answer = (attempt, _) -> {
                answered.countDown();
                return succeeded("run-" + attempt.row().id());
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(20, scene.resultIds().size());
            assertTrue(disk.times.get("results") < 10, disk.times::toString);
        }

        @Test
        void oneCommitCoversAResultAndTheNextAttempt() throws Exception {
            var scene = Scene.numbered(folder, 20);
            var disk = new Recorder(scene);
            scene.slots = 1;

            scene.play();

            assertEquals(20, scene.resultIds().size());
            assertEquals(20, disk.times.get("results"));
            assertTrue(disk.times.get("log") <= 20 + 2, disk.times::toString); // and the session's start and end
        }

        @Test
        void theNextRequestDoesNotWaitForTheResults() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            var next = new CountDownLatch(1);
            var engine = Thread.currentThread();
            var disk = new Recorder(scene, (name, time) -> {
                if (!name.equals("results") || time > 1) return;
                WholeCommand.await(next);
                while (engine.getState() != Thread.State.WAITING) Thread.onSpinWait(); // for this write
            });
            scene.slots = 1;
            scene.inRealTime = true;
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("b")) next.countDown();
                return succeeded("run-" + attempt.row().id());
            };
            scene.watched = tally ->
                    assertTrue(disk.forced.get("results").lines().count() >= tally.succeeded(), "shown too early");

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("a", "b"), scene.resultIds());
        }

        @Test
        void aSlowDiskIsReportedOnceAndASecondSignalEndsTheProcess() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            var said = new CountDownLatch(1);
            scene.disk = new LineFile.Disk() {
                @Override
                public void force(FileChannel channel, boolean all) {
                    if (scene.engine == null || said.getCount() == 0) return;
                    var watching = Thread.startVirtualThread(scene.engine::watchDisk);
                    while (scene.said.isEmpty()) Thread.onSpinWait();
                    said.countDown();
                    scene.engine.interrupt("INT");
                    scene.engine.interrupt("INT");
                    WholeCommand.await(scene.halted);
                    watching.interrupt();
                }

                @Override
                public Duration patience() {
                    return Duration.ofMillis(1);
                }
            };

            assertEquals(Exit.INTERRUPTED, scene.play().orElseThrow().exit());

            assertEquals(1, scene.said.stream().filter(line -> line.contains("disk")).count(), scene.said::toString);
            assertEquals(List.of(), scene.sent);
        }

        @Test
        void aFailedSyncOfTheLogStopsTheBatchBeforeTheRequest() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            var disk = new Recorder(scene, (name, _) -> {
                if (name.equals("log")) throw new IOException("Input/output error");
            });

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.UNUSABLE, stop.exit(), "nothing was sent");
            assertTrue(stop.text().contains("results.jsonl.log: Input/output error"), stop.text());
            assertTrue(stop.text().contains("\nhint: "), stop.text());
            assertEquals(List.of(), scene.sent);
            assertEquals(1, disk.times.get("log"), "a second try might report a success that it is not");
        }

        @Test
        void aFailedSyncOfTheResultsLeavesTheRowToALookUp() throws Exception {
            var scene = Scene.of(folder, "a");
            var disk = new Recorder(scene, (name, _) -> {
                if (name.equals("results")) throw new IOException("Input/output error");
            });

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.STOPPED, stop.exit());
            assertEquals(1, disk.times.get("results"));
            assertEquals(1, scene.log("end").size(), "both files are synced at the same time");

            Files.delete(scene.output); // the disk has lost it
            scene.disk = (_, _) -> {};
            scene.found = _ -> ended(succeeded("run-a"));
            scene.sent.clear();
            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("a"), scene.resultIds());
            assertEquals(List.of(), scene.sent, "it is not paid for again");
        }

        @Test
        void aFailedSyncOfTheResultsIsReportedBesideAnEarlierReasonToStop() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            new Recorder(scene, (name, _) -> {
                if (name.equals("results")) throw new IOException("Input/output error");
            });
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(10));
                return succeeded("run-" + attempt.row().id());
            };
            scene.interruptAfter(seconds(5));

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.STOPPED, stop.exit(), "results may be missing");
            assertTrue(stop.what().startsWith("interrupted; cannot write: "), stop.what());
            assertEquals(1, stop.what().split("Input/output error", -1).length - 1, stop.what());
        }

        @Test
        void aFileSystemThatCannotSyncIsReportedOnce() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            new Recorder(scene, (_, _) -> {
                throw new IOException("Das Argument ist ungültig");
            });

            assertEquals(Optional.empty(), scene.play());

            assertEquals(1, scene.said.size(), scene.said::toString);
            assertTrue(scene.said.getFirst().contains("results.jsonl.log"), scene.said.getFirst());
            assertEquals(List.of("a", "b", "c"), scene.resultIds());
        }

        @Test
        void anAttemptThatWaitsForTheDiskIsNotSentAfterCtrlC() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            new Recorder(scene, (name, _) -> {
                if (Files.exists(scene.output) && name.equals("log") && scene.log("attempt").size() == 2)
                    scene.engine.interrupt("INT");
            });
            scene.inRealTime = true;

            assertEquals(Exit.INTERRUPTED, scene.play().orElseThrow().exit());

            assertEquals(List.of("a"), scene.ids());
            assertEquals(List.of("unreached"), scene.outcomes("b"));
            scene.disk = (_, _) -> {};
            assertEquals(Optional.empty(), scene.play());
            assertEquals(List.of("a", "b"), scene.resultIds());
            assertTrue(scene.looked.isEmpty(), "nothing is unresolved");
        }

        @Test
        void aRunIdFromAStreamIsSyncedWithinASecond() throws Exception {
            var scene = Scene.of(folder, "a");
            var disk = new Recorder(scene);
            scene.mode = Mode.STREAMING;
            scene.answer = (_, listener) -> {
                listener.accept(new StreamEvent.Began(run("run-a")));
                scene.world.pass(seconds(1));
                assertTrue(disk.forced.get("log").contains("\"run-a\""));
                return succeeded("run-a");
            };

            assertEquals(Optional.empty(), scene.play());

            assertFalse(disk.forced.get("results").isEmpty());
        }
    }

    /// A short version of `benchmarks/powercut`.
    @Nested
    @Execution(ExecutionMode.CONCURRENT)
    class APowerCut {
        @TempDir Path folder;

        @BeforeEach
        void skipWithoutStrace() {
            assumeTrue(PowerCut.isPossible(), "strace cannot be used here");
        }

        @ParameterizedTest
        @CsvSource({"BLOCKING, 7", "STREAMING, 7", "CHATFLOW, 2"})
        void losesNoResultAndCausesNoSecondRunOfARow(PowerCut.Mode mode, int states) throws Exception {
            var count = new PowerCut().measure(folder, mode, 24, states, false);

            assertTrue(count.isGood(), count::toString);
            // A stream that never left looks like one that waits in the server's queue, unless a later one begins.
            boolean mayBeQueued = mode == PowerCut.Mode.STREAMING || mode == PowerCut.Mode.CHATFLOW;
            assertTrue(count.unknown == 0 || mayBeQueued, count::toString);
        }

        /// An exported file has no other copy of its name, so only the trace shows that its folder is synced.
        @Test
        void losesNoRenamedFileBecauseItsFolderIsSynced() throws Exception {
            Files.writeString(folder.resolve("data.csv"), "id,text\na,one\n");
            var trace = folder.resolve("trace");
            var words = new ArrayList<>(List.of("strace", "-f", "--seccomp-bpf", "-y", "-o", trace.toString(), "-e",
                    "trace=rename,renameat,renameat2,fsync"));
            words.addAll(Given.Tool.words());
            var run = new ProcessBuilder(Given.Tool.words()).directory(folder.toFile());
            run.command().addAll(List.of("run", "--demo", "-i", "data.csv", "-o", "results.jsonl"));
            assertEquals(0, run.redirectErrorStream(true).redirectOutput(folder.resolve("output").toFile()).start()
                    .waitFor());
            words.addAll(List.of("export", "-i", "data.csv", "-o", "results.jsonl", "out.csv"));

            assertEquals(0, run.command(words).start().waitFor());

            var calls = Files.readAllLines(trace);
            var synced = " fsync\\(\\d+<" + Pattern.quote(folder.toRealPath().toString()) + ">";
            var renamed = calls.stream().filter(call -> call.contains("out.csv\"")).findFirst().orElseThrow();
            assertTrue(calls.stream().skip(calls.indexOf(renamed)).anyMatch(Pattern.compile(synced).asPredicate()),
                    calls::toString);
        }

        @Test
        void causesSecondRunsOfRowsIfNothingIsSynced() throws Exception {
            var count = new PowerCut().measure(folder, PowerCut.Mode.BLOCKING, 24, 5, true);

            assertTrue(count.paidTwice > 0, count::toString);
        }
    }
}
