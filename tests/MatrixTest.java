package difyexec;

import difyexec.Matrix.Cell;
import difyexec.Matrix.Outcome;
import difyexec.SimulatedRoute.Breakage;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.api.parallel.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

import module java.base;

import static org.junit.jupiter.api.Assertions.*;

/// Some cells of the matrix: see [Matrix], whose command runs all of them.
@Tag("slow")
final class MatrixTest {
    /// All cells run at once, because they mostly wait. Then one thread goes through their outcomes.
    @Nested
    @Execution(ExecutionMode.SAME_THREAD)
    @TestInstance(TestInstance.Lifecycle.PER_CLASS)
    class ARouteThatIsBrokenForever {
        /// Routes on which the tool's promises rest are broken in each of these ways, the others in one.
        private static final Set<SimulatedRoute> IMPORTANT = EnumSet.of(SimulatedRoute.RUN, SimulatedRoute.LOOK_UP,
                SimulatedRoute.LIST, SimulatedRoute.MESSAGES);
        private static final List<Breakage> WAYS = List.of(Breakage.CUT_BEFORE, Breakage.CUT_WITHIN, Breakage.NUMBER,
                Breakage.HTML, Breakage.REPEATED_PAGE);

        @TempDir static Path folder;
        private ExecutorService pool;
        private Map<Cell, Future<Outcome>> outcomes;

        /// One cell for each route and way. Versions, apps, modes and commands take turns.
        static List<Cell> cells() {
            var all = Matrix.cells().toList();
            var chosen = new ArrayList<Cell>();
            for (var route : SimulatedRoute.values()) for (var way : Breakage.values()) {
                var cells = all.stream().filter(cell -> cell.route() == route && cell.breakage() == way).toList();
                boolean isChosen = IMPORTANT.contains(route) ? WAYS.contains(way)
                        : way == WAYS.get(route.ordinal() % 4);
                if (isChosen && !cells.isEmpty())
                    chosen.add(cells.get((7 * route.ordinal() + 5 * way.ordinal()) % cells.size()));
            }
            // these wait for 30 s, so there are only two of them
            for (var route : List.of(SimulatedRoute.LOOK_UP, SimulatedRoute.LIST))
                all.stream().filter(cell -> cell.route() == route && cell.breakage() == Breakage.NO_RESPONSE)
                        .filter(Cell::isRun).findFirst().ifPresent(chosen::add);
            return chosen;
        }

        @BeforeAll
        void start() throws IOException {
            outcomes = new LinkedHashMap<>();
            pool = Executors.newCachedThreadPool(Thread.ofPlatform().daemon().factory());
            for (var cell : cells()) {
                var own = Files.createDirectory(folder.resolve("" + outcomes.size()));
                outcomes.put(cell, pool.submit(() -> cell.play(own)));
            }
        }

        @AfterAll
        void close() {
            pool.shutdownNow();
        }

        @ParameterizedTest(name = "{0}")
        @MethodSource("cells")
        void letsEveryCommandEnd(Cell cell) throws Exception {
            var outcome = outcomes.get(cell).get();

            assertEquals(List.of(), outcome.problems(), outcome::toString);
        }

        @Test
        void isEachRouteInBothVersionsAppsAndModes() {
            var runs = Matrix.cells().filter(Cell::isRun).toList();
            assertTrue(runs.size() > 400, runs.size() + " cells");
            assertEquals(SimulatedRoute.values().length, runs.stream().map(Cell::route).distinct().count());
            assertEquals(Breakage.values().length, runs.stream().map(Cell::breakage).distinct().count());
            for (var parts : List.<Function<Cell, Object>>of(Cell::version, Cell::app, Cell::mode))
                assertEquals(2, cells().stream().filter(Cell::isRun).map(parts).distinct().count());
        }
    }
}
