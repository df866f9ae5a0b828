package difyexec;

import com.fasterxml.jackson.databind.node.ObjectNode;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

import module java.base;

import static difyexec.DifyExec.*;
import static org.junit.jupiter.api.Assertions.assertEquals;

/// `verify`: batches and planted faults, against a simulated server.
final class VerifyTest extends WholeCommand {

    private Map<String, String> start(String... options) throws IOException {
        var line = Simulator.commandLine();
        line.parseArgs(Stream.concat(Stream.of("--latency", "20ms"), Stream.of(options)).toArray(String[]::new));
        var kind = List.of(options).contains("chatflow") ? Simulator.Setup.Kind.CHATFLOW
                : Simulator.Setup.Kind.WORKFLOW;
        var server = SimulatedServer.start(0, 0, new SimulatedDify(line.<Simulator>getCommand().behaviour(),
                Simulator.Setup.PLAIN.with(kind)));
        open.add(server);
        return Map.of("DIFY_API_KEY", KEY, "DIFY_API_BASE_URL", server.baseUrl().toString(), "INITIAL_RETRY_DELAY", "10ms");
    }

    private Call verify(Map<String, String> settings, String... more) throws IOException {
        return call(settings, Stream.concat(Stream.of("verify", "-o", output(), "--json"), Stream.of(more))
                .toArray(String[]::new));
    }

    /// `matches=3 failed=1`, without zeros.
    private static String counts(Call call) throws IOException {
        return tree(call.out()).path("findings").properties().stream()
                .map(kind -> kind.getKey() + "=" + kind.getValue().size()).sorted().collect(Collectors.joining(" "));
    }

    private static List<String> ids(Call call, String kind) throws IOException {
        return tree(call.out()).path("findings").path(kind).valueStream().map(one -> one.path("id").asText()).toList();
    }

    /// Rewrites each line of the results, or drops it if the change returns null.
    private void damage(UnaryOperator<ObjectNode> change) throws IOException {
        var lines = new ArrayList<String>();
        for (var line : results()) {
            var changed = change.apply((ObjectNode) line);
            if (changed != null) lines.add(changed.toString());
        }
        Files.writeString(file("results.jsonl"), String.join("\n", lines) + "\n");
    }

    @Nested
    class AVerification {
        @ParameterizedTest(name = "{0} of Dify {1}, {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                app,      version, mode
                workflow, 1.9.2,   blocking
                workflow, 1.14.2,  streaming
                workflow, 1.16.0,  blocking
                chatflow, 1.9.2,   streaming
                chatflow, 1.16.0,  streaming
                """)
        void findsNothingWrongInASoundBatch(String app, String version, String mode) throws IOException {
            var column = app.equals("chatflow") ? "query" : "text";
            var settings = start("--app", app, "--dify", version, "--columns", "id,text");
            csv("id," + column, "1,one", "2,two", "3,three");
            assertEquals(0, call(settings, typed("run", "--mode", mode)).code());

            var call = verify(settings);

            assertEquals("matches=3", counts(call), call.toString());
            assertEquals(0, call.code());
        }

        @Test
        void comparesNumbersByValue() throws IOException {
            var form = Files.writeString(file("form.json"),
                    "[{\"number\":{\"variable\":\"n\",\"label\":\"n\",\"type\":\"number\",\"required\":true}}]");
            var settings = start("--dify", "1.16.0", "--form", form.toString());
            csv("id,n", "1,007", "2,+7", "3,5.", "4,.50");
            var run = call(settings, typed("run", "--mode", "blocking"));
            assertEquals(0, run.code(), run.err());

            assertEquals("matches=4", counts(verify(settings)));
        }

        @Test
        void looksUpTheRunIfTheMessageHasNoAnswer() throws IOException {
            var settings = start("--app", "chatflow", "--dify", "1.9.2", "--columns", "id", "--drop-after", "100%");
            csv("id,query", "1,one", "2,two");
            assertEquals(0, call(settings, typed("run", "--mode", "streaming")).code());

            var call = verify(settings);

            assertEquals("matches=2", counts(call), call.toString());
        }

        @Test
        void distinguishesFailedAttemptsFromWrongOnes() throws IOException {
            var settings = start("--dify", "1.14.2");
            csv("id,text", "1,one", "2,[fail!] two");
            call(settings, typed("run", "--mode", "blocking"));

            var call = verify(settings);

            assertEquals("failed=1 matches=1", counts(call), call.toString());
            assertEquals(0, call.code());
        }

        @Test
        void findsAnotherRowsOutputsAChangedStatusAndAMissingLine() throws IOException {
            var settings = start("--dify", "1.16.0");
            rows(4);
            assertEquals(0, call(settings, typed("run", "--mode", "blocking")).code());
            var other = result("4").path("outputs");
            damage(line -> switch (line.path("id").asText()) {
                case "1" -> line.set("outputs", other);
                case "2" -> line.put("workflow_status", "partial-succeeded");
                case "3" -> null;
                default -> line;
            });

            var call = verify(settings);

            assertEquals("differs=2 lost=1 matches=1", counts(call), call.toString());
            assertEquals(List.of("1", "2"), ids(call, "differs"));
            assertEquals(List.of("3"), ids(call, "lost"));
            assertEquals(Exit.ROWS_FAILED.code, call.code());
        }

        @Test
        void findsARowPaidTwiceUnlessThatWasAskedFor() throws IOException {
            var settings = start("--dify", "1.14.2");
            rows(2);
            assertEquals(0, call(settings, typed("run", "--mode", "blocking")).code());
            assertEquals(0, call(settings, typed("retry", "1", "--force", "--mode", "blocking")).code());

            var asked = verify(settings);
            var log = content("results.jsonl.log").replace(",\"again\":true", "");
            Files.writeString(file("results.jsonl.log"), log);
            var unasked = verify(settings);

            assertEquals("matches=2 sent_again=1", counts(asked), asked.toString());
            assertEquals(0, asked.code());
            assertEquals("matches=2 paid_twice=1", counts(unasked), unasked.toString());
            assertEquals(List.of("1"), ids(unasked, "paid_twice"));
            assertEquals(Exit.ROWS_FAILED.code, unasked.code());
        }

        @Test
        void reportsAnUnrecordedRunAndADeletedOne() throws IOException {
            var settings = start("--dify", "1.14.2");
            rows(2);
            assertEquals(0, call(settings, typed("run", "--mode", "blocking")).code());
            var gone = UUID.randomUUID().toString();
            var run = result("1").path("workflow_run_id").asText();
            Files.writeString(file("results.jsonl.log"), content("results.jsonl.log").replace(run, gone));
            damage(line -> line.path("id").asText().equals("1") ? line.put("workflow_run_id", gone)
                    : line.put("workflow_run_id", UUID.randomUUID().toString()));

            var call = verify(settings);

            assertEquals(List.of("1"), ids(call, "differs"), call.toString());
            assertEquals(List.of("2"), ids(call, "without_run"), call.toString());
        }

        @Test
        void countsWhatTheServerCannotShowAsNotVerifiable() throws IOException {
            var settings = start("--dify", "1.9.2");
            csv("id,text", "1,one", "2,[drop-before!] two");
            call(settings, typed("run", "--mode", "streaming", "--max-retries", "0"));

            var call = verify(settings);

            assertEquals("matches=1 not_verifiable=1", counts(call), call.toString());
            assertEquals(0, call.code());
        }

        @Test
        void verifiesASampleAndRefusesAnotherServer() throws IOException {
            var settings = start("--dify", "1.14.2");
            rows(9);
            assertEquals(0, call(settings, typed("run")).code());

            assertEquals(3, tree(verify(settings, "--sample", "3").out()).path("rows").asInt());
            var elsewhere = start("--dify", "1.14.2");
            assertEquals(Exit.UNUSABLE.code, verify(elsewhere).code());
            Files.delete(file("results.jsonl.log"));
            assertEquals(Exit.UNUSABLE.code, verify(settings).code());
        }
    }
}
