package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.api.parallel.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

import module java.base;

import static org.junit.jupiter.api.Assertions.*;

/// The readers with inputs that a seed decides, see [Fuzz]. `benchmarks/fuzz` has more of them.
@Tag("slow")
@Execution(ExecutionMode.CONCURRENT)
final class ReadersTest {
    @TempDir Path folder;

    @Nested
    @Execution(ExecutionMode.CONCURRENT)
    class AReader {
        /// Defects that are known: JSON that is nested deeper than 1,000 levels.
        private static final Set<String> KNOWN =
                Set.of("stack trace of java.lang.NullPointerException in TextFile.read");

        static List<String> names() {
            return Fuzz.targets(List.of()).stream().map(Fuzz.Target::name).toList();
        }

        @ParameterizedTest
        @MethodSource("names")
        void agreesWithItsOracleOrReportsTheLine(String name) throws Exception {
            var target = Fuzz.targets(List.of()).stream().filter(each -> each.name().equals(name)).findFirst()
                    .orElseThrow();

            // earlier workbooks have a cell beyond the last column of Excel, which takes too long
            var report = Fuzz.feed(target, 67, 250, folder, false);

            report.differences.keySet().removeAll(KNOWN);
            assertEquals(Map.of(), report.differences);
            assertTrue(report.read > 100 && report.read + report.refused > 200, () -> report.read + " read");
        }
    }
}
