package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.tree;
import static org.junit.jupiter.api.Assertions.*;

/// Everyday use: continuing a batch, watching it, seeing why it stopped, and what to do next.
final class EveryDayTest extends WholeCommand {
    private final Simulated dify = new Simulated("--dify", "1.16.0", "--latency", "10ms");

    @Nested
    class ResumingABatch {
        /// Runs half of eight rows. Three succeed and one fails.
        private void startBatch() throws IOException {
            rows(8);
            replace("data.csv", "2,", "2,[fail] ");
            dify.run("--limit", "4").exits(3);
        }

        @Test
        void runsTheRemainingRowsAndCountsTheWholeBatch() throws IOException {
            startBatch();

            var call = dify.run().exits(0).says("5 succeeded in ", "Batch: 8 succeeded");

            assertTrue(call.err().matches("(?s).*Resuming: [^\n]*3 of 8[^\n]*1 failed.*"), call.err());
            assertEquals(List.of("2", "5", "6", "7", "8"), attempts(2));
            assertEquals(4 + 5, dify.runs());
            assertFalse(Files.exists(file("results.jsonl.retry")));
        }

        @Test
        void countsOnlyTheSelectedRowsOfALimitedRun() throws IOException {
            startBatch();

            dify.run("--limit", "2").omits("Resuming").says("2 succeeded in ");
        }
    }

    @Nested
    class ARepeatedFailure {
        private void refusedRows(int count) throws IOException {
            rows(count);
            replace("data.csv", "text ", "[refuse!] ");
        }

        @Test
        void endsTheSessionIfAllOfTheFirstTwentyRowsHaveIt() throws IOException {
            var sent = new AtomicInteger();
            dify.app.onStart(sent::incrementAndGet);
            refusedRows(30);

            dify.run("-c", "1").exits(4).reports("must be less than").hints("--max-failures off");

            assertEquals(20, sent.get());
            dify.run("-c", "1", "--max-failures", "off").exits(3);
            assertEquals(50, sent.get());
        }

        @Test
        void doesNotEndTheSessionIfAnyRowHasSucceeded() throws IOException {
            refusedRows(25);
            replace("data.csv", "3,[refuse!] 3", "3,text");

            dify.run("-c", "1").exits(3);
            dify.run("-c", "1").exits(3);
        }

        @Test
        void isPrintedWhenItFirstOccursAndOnceMoreWithANoteThatTheRestIsCounted() throws IOException {
            refusedRows(9);

            var call = call(dify.settings(), "run", "-i", input(), "-o", output());

            var failures = call.err().lines().filter(line -> line.startsWith("Row ")).toList();
            assertEquals(2, failures.size(), call.err());
            var ids = events("end").stream().map(end -> end.path("id").asText()).toList();
            for (int i = 0; i < failures.size(); i++) assertTrue(failures.get(i)
                    .startsWith("Row " + ids.get(i) + " failed: ") && failures.get(i).contains("less than"));
            assertTrue(failures.getFirst().endsWith("characters") && failures.getLast().contains("only counted"));
            assertTrue(call.err().startsWith("Connecting to 127.0.0.1"), call.err());
        }
    }

    @Nested
    class TheSuggestedNextStep {
        @Test
        void isTheShellAfterRejectedRows() throws IOException {
            csv("id,text", "1,[refuse]", "2,b");

            var call = dify.run();

            assertTrue(call.next().startsWith("shell -i " + input() + " -o " + output()), call.next());
            call.says("--html");
        }

        @Test
        void isARetryAfterTheFirstFailureAndThenTheShell() throws IOException {
            csv("id,text", "1,[fail!]", "2,b");

            assertTrue(dify.run().next().startsWith("retry "));
            assertTrue(dify.command("retry").next().startsWith("shell "));
            var json = statusJson();
            assertEquals(List.of(3, 1), List.of(json.path("attempts").asInt(), json.path("retries").asInt()));
        }

        @Test
        void isAnExportAfterAllRowsSucceeded() throws IOException {
            rows(2);

            var next = dify.run().next();

            assertTrue(next.startsWith("export "), next);
            call(Map.of(), next.replace("out.csv", path("out.csv")).split(" ")).exits(0);
        }

        @Test
        void isAboutTheFilesOfAShardAfterARunOfIt() throws IOException {
            rows(20);

            var next = dify.run("--shard", "1/2").says("succeeded (shard 1/2)").next();

            assertTrue(next.startsWith("export ") && next.contains("results.1-of-2.jsonl "), next);
            call(Map.of(), next.replace("out.csv", path("out.csv")).split(" ")).exits(0);
        }
    }

    @Nested
    class TheEndOfASession {
        @Test
        void isExplainedInStatusReportAndShellIfAnErrorCausedIt() throws IOException {
            rows(4);
            dify.app.onStart(() -> dify.app.become(Simulator.Access.FORGOTTEN));
            dify.run("-c", "1").exits(4);

            ofBatch("status", "--html", path("r.html")).shows("(401: ");
            assertTrue(content("r.html").contains("(401: "));
            var outer = commandLine(Given.env(Map.of()));
            outer.parseArgs("shell", "-i", input(), "-o", output());
            Shell shell = outer.getSubcommands().get("shell").getCommand();
            assertTrue(shell.session().summary().orElseThrow().contains("(401: "));
            assertTrue(statusJson().path("stopped").asText().contains("(401: "));

            dify.app.onStart(() -> {});
            dify.app.become(Simulator.Access.OPEN);
            dify.run().exits(0);
            assertTrue(statusJson().path("stopped").isNull());
        }

        @Test
        void isPrintedAsOneJsonObjectOnRequest() throws IOException {
            csv("id,text", "1,a", "2,[fail]", "3,c");

            var call = dify.run("--json").exits(3);

            var json = tree(call.out());
            assertEquals(1, call.out().lines().count());
            assertEquals("total succeeded partial failed paused unknown pending exit_code reason seconds total_tokens "
                    + "cost files forecast", keys(json));
            assertEquals(List.of(3, 2, 1, 3), Stream.of("total", "succeeded", "failed", "exit_code")
                    .map(key -> json.path(key).asInt()).toList());
            assertEquals(3, tree(dify.command("retry", "--json").out()).path("succeeded").asInt());
            assertEquals(0, tree(dify.run("--json").out()).path("exit_code").asInt(), "nothing to do");
        }

        @ParameterizedTest
        @CsvSource({"--timeout, abc", "--no-such-option, x", "--timeout, 0", "--limit, 0", "--encoding, nonsense"})
        void isReportedAsJsonEvenForAnInvalidCommandLine(String option, String value) throws IOException {
            rows(1);

            var call = dify.run(option, value, "--json").exits(2);

            assertEquals(1, call.out().lines().count(), call.out());
            assertEquals(2, tree(call.out()).path("exit_code").asInt());
            assertTrue(tree(call.out()).path("reason").asText().contains(option), call.out());
            assertEquals("", dify.command("status", option, value).out());
        }

        @Test
        void isReportedAsJsonEvenForAnInvalidSetting() throws IOException {
            rows(1);

            var call = call(dify.settings("TIMEOUT", "abc"), typed("run", "--json")).exits(2);

            assertTrue(tree(call.out()).path("reason").asText().contains("TIMEOUT"), call.out());
        }
    }

    @Nested
    class AnEnvFile {
        private Call with(String... args) throws IOException {
            return call(Given.env(Map.of(), folder), args);
        }

        @Test
        void isReadInsteadOfDotEnvIfItIsGiven() throws IOException {
            rows(1);
            Files.writeString(file(".env"), "DIFY_API_BASE_URL=http://127.0.0.1:1/v1\nDIFY_API_KEY=app-other\n");
            var other = Files.createDirectories(file("app")).resolve(".env");
            Files.writeString(other, "DIFY_API_BASE_URL=" + dify.server.baseUrl() + "\nDIFY_API_KEY=" + KEY + "\n");

            with(typed("run", "--env-file", other.toString())).exits(0);
            with(typed("run", "--env-file=" + file("none"))).exits(2);
        }

        @Test
        void isShownAsAnExampleIfTheApiKeyIsMissing() throws IOException {
            rows(1);

            var call = with(typed("run")).exits(2);

            assertTrue(call.err().lines().toList().containsAll(List.of("DIFY_API_BASE_URL=https://api.dify.ai/v1",
                    "DIFY_API_KEY=app-your-key-here")), call.err());
        }
    }

    @Nested
    class AClosedPipe {
        @Tag("slow")
        @ParameterizedTest
        @ValueSource(strings = {"export -i data.csv -o results.jsonl -", "status -i data.csv -o results.jsonl",
                "generate-completion"})
        void endsTheCommandWithoutAnError(String command) throws Exception {
            rows(20);
            call(Map.of(), typed("run", "--demo", "-c", "20")).exits(0);
            var line = java().stream().map(Text::shell).collect(Collectors.joining(" ")) + " " + command;

            ended(start(List.of("bash", "-c", line + " | sleep 0"), Map.of())).omits("cannot be written");
        }
    }
}
