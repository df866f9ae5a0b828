package difyexec;

import difyexec.ExploredWorld.Rules;
import difyexec.ExploredWorld.Setting;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.parallel.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static org.junit.jupiter.api.Assertions.*;

/// Each sequence of four events after a request, and each event in each state of an attempt's life. `benchmarks/explore`
/// tries longer ones from each state.
@Tag("slow")
final class ExplorationTest {
    @Nested
    @Execution(ExecutionMode.CONCURRENT)
    class EverySequenceOfFourEvents {
        /// Of apps without a workflow, only those of the newer release, because the older one hardly differs there.
        static List<Setting> settings() {
            return Setting.all().stream().filter(one -> one.app().hasRuns() || !one.isOld()).toList();
        }

        @ParameterizedTest
        @MethodSource("settings")
        void paysForNoRowTwiceAndEnds(Setting setting) {
            var search = new Exploration.Search(setting, Rules.OURS, 4).fromRequest();

            search.run();

            System.out.println(search);
            assertEquals(List.of(), search.violations());
            assertTrue(search.sequences() > 1_000, search.toString());
        }

        @ParameterizedTest
        @EnumSource(mode = EnumSource.Mode.EXCLUDE, names = "OURS")
        void findsAWrongRule(Rules wrong) {
            assertTrue(Exploration.firstViolation(wrong, 2).isPresent());
        }
    }
}
