package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.parallel.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

import static org.junit.jupiter.api.Assertions.assertEquals;

/// Whole batches in a world that a seed decides: see [Seeds].
final class SeedsTest {
    @Nested
    @Execution(ExecutionMode.CONCURRENT)
    class ABatchWithRandomFaults {
        @ParameterizedTest
        @ValueSource(ints = {1, 251, 501, 751})
        void keepsEveryGuarantee(int from) throws Exception {
            for (int seed = from; seed < from + 250; seed++) new Seeds.Schedule(seed).play();
        }

        @Test
        void leavesTheSameTraceForTheSameSeed() throws Exception {
            var first = new Seeds.Schedule(7);
            var second = new Seeds.Schedule(7);

            first.play();
            second.play();

            assertEquals(first.trace, second.trace);
        }
    }
}
