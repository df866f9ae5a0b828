package difyexec;

import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.parallel.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

import static org.junit.jupiter.api.Assertions.assertEquals;

/// Whole batches in a world that a seed decides: see [Seeds].
@Tag("slow")
final class SeedsTest {
    @Nested
    @Execution(ExecutionMode.CONCURRENT)
    class ABatchWithRandomFaults {
        @ParameterizedTest
        @ValueSource(ints = {1, 101, 201})
        void keepsEveryGuarantee(int from) throws Exception {
            for (int seed = from; seed < from + 100; seed++) new Seeds.Schedule(seed).play();
        }

        /// With chat, agent and completion apps.
        @Test
        void keepsEveryGuaranteeOfMessages() throws Exception {
            for (int seed = 1; seed <= 50; seed++) Seeds.Schedule.ofMessages(seed).play();
        }

        /// Behind a gateway that buffers whole responses, with jobs that a busy worker has reserved.
        @Test
        void keepsEveryGuaranteeBehindGateways() throws Exception {
            for (int seed = 1; seed <= 10; seed++) Seeds.Schedule.ofGateways(seed).play();
        }

        /// One seed of the world as it was at first, and some of the wider one: chatflows, shards, edits.
        @ParameterizedTest
        @ValueSource(longs = {7, 31, 32, 33})
        void leavesTheSameTraceForTheSameSeed(long seed) throws Exception {
            var first = new Seeds.Schedule(seed);
            var second = new Seeds.Schedule(seed);

            first.play();
            second.play();

            assertEquals(first.trace, second.trace);
        }
    }
}
