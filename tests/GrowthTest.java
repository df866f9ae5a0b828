package difyexec;

import difyexec.DifyExec.Limits.Ceiling;
import java.lang.management.ManagementFactory;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.api.parallel.Isolated;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// What happens for each row takes the same time in a small batch and in a large one.
final class GrowthTest {
    private static final int SMALL = 5000, LARGE = 200_000, ROWS = 1000, ROUNDS = 3;

    /// Compares the processor time for the same rows of two batches. They take turns, after a round to warm up.
    @Tag("slow")
    @Nested
    @Isolated
    @TestInstance(TestInstance.Lifecycle.PER_CLASS)
    class ALargeBatch {
        private Path folder;
        private Scene large;
        private BatchWriter writer;
        private int folders = 0, used = 0;

        @BeforeAll
        void isReadOnce(@TempDir Path folder) throws IOException {
            this.folder = folder;
            large = scene(LARGE);
            writer = large.open();
        }

        @AfterAll
        void close() throws IOException {
            writer.close();
        }

        /// The last ones are sent again because their runs are not found; later sessions would look for them again.
        static List<Arguments> rows() {
            Answer success = (attempt, _) -> succeeded("run-" + attempt.row().id());
            Answer failure = (_, _) -> failed("no such city");
            Answer transientFailure = (attempt, listener) -> attempt.tries().failed() == 0
                    ? failed("Rate Limit Error") : success.to(attempt, listener);
            Answer cutOff = (attempt, _) -> cut(Symptom.CUT, run("run-" + attempt.row().id()));
            Answer lost = (attempt, listener) -> attempt.tries().equals(Attempt.Tries.NONE)
                    ? cut(Symptom.CUT) : success.to(attempt, listener);
            Function<Question, LookUpResult> absent = _ -> ABSENT,
                    found = question -> ended(succeeded(question.run().orElseThrow().id()));
            return List.of(Arguments.of("succeed", success, absent, RowStatus.SUCCEEDED),
                    Arguments.of("fail", failure, absent, RowStatus.FAILED),
                    Arguments.of("are retried", transientFailure, absent, RowStatus.SUCCEEDED),
                    Arguments.of("are looked up", cutOff, found, RowStatus.SUCCEEDED),
                    Arguments.of("are sent again", lost, absent, RowStatus.SUCCEEDED));
        }

        @Test
        void showsItsStatusAboutAsFastPerRowAsASmallBatch() throws Exception {
            int few = 5_000, many = 50_000;
            var small = scene(few).output;
            var longer = scene(many).output;
            log(small, few);
            log(longer, many);
            var ratio = ratio(() -> status(small, few) / few, () -> status(longer, many) / many);

            assertTrue(ratio <= 2, "processor time per line in the longer log: " + ratio + " times as much");
        }

        @ParameterizedTest(name = "rows that {0}")
        @MethodSource("rows")
        void runsRowsAboutAsFastAsASmallBatch(String which, Answer answer, Function<Question, LookUpResult> found,
                RowStatus end) throws Exception {
            var ids = new ArrayDeque<List<String>>();
            for (int round = 0; round <= ROUNDS; round++, used++)
                ids.add(IntStream.range(used * ROWS, (used + 1) * ROWS).mapToObj(GrowthTest::id).toList());
            var small = IntStream.range(0, ROWS).mapToObj(GrowthTest::id).toList();
            large.answer = answer;
            large.found = found;
            var ratio = ratio(() -> {
                var scene = scene(SMALL);
                scene.answer = answer;
                scene.found = found;
                try (var batch = scene.open()) {
                    return play(scene, batch, small, end);
                }
            }, () -> play(large, writer, ids.remove(), end));

            assertTrue(ratio <= 2, "processor time per row in the larger batch: " + ratio + " times as much");
        }

        private Scene scene(int rows) throws IOException {
            var ids = IntStream.range(0, rows).mapToObj(GrowthTest::id).collect(Collectors.joining("\n"));
            var own = Files.createDirectory(folder.resolve(String.valueOf(++folders)));
            var scene = new Scene(own, "id\n" + ids + "\n");
            scene.inRealTime = true;
            scene.slots = 64;
            scene.backoff = new Backoff(Duration.ofMillis(1), Duration.ofMillis(1), 3);
            scene.settle = Duration.ZERO;
            scene.maxFailures = new Ceiling(Long.MAX_VALUE, 1);
            return scene;
        }
    }

    /// Compares the processor time per run of two batches whose runs are numbered, as some servers name them.
    @Tag("slow")
    @Nested
    @Isolated
    class ATableOfNumberedRuns {
        @Test
        void isFilledAboutAsFastPerRunAsASmallOne() throws Exception {
            int few = 10_000, many = 200_000;
            var ratio = ratio(() -> claim(few) / few, () -> claim(many) / many);

            assertTrue(ratio <= 4, "processor time per run of the longer table: " + ratio + " times as much");
        }

        private static double claim(int runs) {
            var history = new History(new Index());
            long began = processorTime();
            for (int run = 0; run < runs; run++) assertTrue(history.claim(run, "run-" + run));
            return processorTime() - began;
        }
    }

    /// Compares the processor time for the column names of two files.
    @Tag("slow")
    @Nested
    @Isolated
    class AWideTable {
        @ParameterizedTest
        @ValueSource(strings = {"cN", "same", ""})
        void isOpenedAboutAsFastPerColumnAsANarrowOne(String name, @TempDir Path folder) throws Exception {
            int few = 4_000, many = 40_000;
            var narrow = table(folder.resolve("narrow.csv"), name, few);
            var wide = table(folder.resolve("wide.csv"), name, many);
            var ratio = ratio(() -> open(narrow, many / few) / many, () -> open(wide, 1) / many);

            assertTrue(ratio <= 3, "processor time per column of the wider table: " + ratio + " times as much");
        }

        private static Path table(Path file, String name, int columns) throws IOException {
            var names = IntStream.range(0, columns).mapToObj(column -> name.replace("N", "" + column))
                    .collect(Collectors.joining(","));
            return Files.writeString(file, "id," + names + "\n1" + ",x".repeat(columns) + "\n");
        }

        private static double open(Path file, int times) throws IOException {
            long began = processorTime();
            for (int time = 0; time < times; time++)
                try (var csv = Csv.open(file, Csv.Shape.DEFAULT)) {
                    csv.header().repeated();
                }
            return processorTime() - began;
        }
    }

    private static String id(int row) {
        return "r" + row;
    }

    /// The processor time from the first request to the last result, without reading the file.
    private static double play(Scene scene, BatchWriter batch, List<String> ids, RowStatus end) throws Exception {
        var began = new AtomicLong();
        scene.watched = _ -> began.compareAndSet(0, processorTime()); // once the first requests have been started
        scene.selection = Batch.Selection.named(ids, false);
        assertEquals(Optional.empty(), scene.play(batch));
        double took = processorTime() - began.get();
        for (var id : ids) assertEquals(end, batch.batch.index().status(batch.batch.index().find(id)), id);
        return took;
    }

    private static void log(Path output, int lines) throws IOException {
        var past = new PastBatch(1, 10, 0);
        for (int row = 0; row < lines / 2; row++) past.attempt(id(row)).end(id(row), "failed");
        past.save(output);
    }

    private static double status(Path output, int lines) {
        long began = processorTime();
        var batch = Batch.peek(BatchFiles.of(output), Optional.empty(), false);
        assertEquals((long) lines / 2, StatusView.json(batch).get("failed"));
        return processorTime() - began;
    }

    /// Of this thread, which is the engine's: workers do not know the batch. The compiler and the garbage collector,
    /// whose time differs from round to round, have threads of their own.
    private static long processorTime() {
        return ManagementFactory.getThreadMXBean().getCurrentThreadCpuTime();
    }

    /// The larger one's median relative to the smaller one's, without the first round of each.
    private static double ratio(Callable<Double> smaller, Callable<Double> larger) throws Exception {
        var small = new ArrayList<Double>();
        var large = new ArrayList<Double>();
        for (int round = 0; round <= ROUNDS; round++) {
            small.add(smaller.call());
            large.add(larger.call());
        }
        return median(large) / median(small);
    }

    private static double median(List<Double> values) {
        return values.subList(1, values.size()).stream().sorted().toList().get(ROUNDS / 2);
    }
}
