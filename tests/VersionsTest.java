package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static org.junit.jupiter.api.Assertions.*;

/// Whole batches with differences between versions of Dify: forms, moderation, and replaced servers.
final class VersionsTest extends WholeCommand {
    private static final Map<Simulator.Setup.Kind, SimulatedGraph> ASKING = Map.of(
            Simulator.Setup.Kind.WORKFLOW, new SimulatedGraph(List.of(new SimulatedGraph.Step.Ask("ask")),
                    Map.of("note", "ask.note")),
            Simulator.Setup.Kind.CHATFLOW, new SimulatedGraph(List.of(new SimulatedGraph.Step.Say("first"),
                    new SimulatedGraph.Step.Ask("ask")), Map.of("answer", "ask.answer")));

    private SimulatedDify dify;
    private SimulatedServer server;

    private Map<String, String> start(Simulator.Setup setup, String... options) throws IOException {
        var line = Simulator.commandLine();
        line.parseArgs(options);
        dify = new SimulatedDify(line.<Simulator>getCommand().behaviour(), setup,
                dify == null ? new SimulatedLedger() : dify.ledger());
        int port = server == null ? 0 : server.baseUrl().getPort();
        if (server != null) server.close();
        server = restarted(port);
        open.add(server);
        return settingsFor(server.baseUrl());
    }

    /// The port is free a moment after the previous server closed it.
    private SimulatedServer restarted(int port) throws IOException {
        for (int tries = 0; ; tries++) {
            try {
                return SimulatedServer.start(port, 0, dify);
            } catch (BindException problem) {
                if (tries == 50) throw problem;
                LockSupport.parkNanos(100_000_000);
            }
        }
    }

    /// An app that asks a human in each run.
    private Map<String, String> asking(Simulator.Setup.Kind kind, String version) throws IOException {
        csv(kind == Simulator.Setup.Kind.CHATFLOW ? "id,query" : "id,text", "1,one", "2,two");
        return start(new Simulator.Setup("asking", Optional.of(ASKING.get(kind)), kind, _ -> true), "--dify", version,
                "--columns", kind == Simulator.Setup.Kind.CHATFLOW ? "id" : "id,text");
    }

    private int started() {
        return Simulated.count(dify, "started");
    }

    @Nested
    class AFormThatIsAnswered {
        @ParameterizedTest(name = "{0} of {1}, {2}")
        @CsvSource({"WORKFLOW, 1.14.2, blocking", "WORKFLOW, 1.16.1, streaming", "WORKFLOW, 1.16.1, blocking",
            "CHATFLOW, 1.14.2, streaming", "CHATFLOW, 1.14.2, blocking", "CHATFLOW, 1.16.0, streaming",
            "CHATFLOW, 1.16.1, streaming", "CHATFLOW, 1.16.1, blocking"})
        void letsTheNextCallTakeTheResult(Simulator.Setup.Kind kind, String version, String mode) throws IOException {
            var settings = asking(kind, version);
            call(settings, typed("run", "--mode", mode)).exits(3);
            assertEquals("paused=2", status());
            call(settings, typed("run", "--mode", mode)); // it still waits, or waits again
            assertEquals("paused=2", status());

            dify.ledger().each(job -> job.resume("fine"));
            call(settings, typed("run", "--mode", mode)).exits(0);
            assertEquals("succeeded=2", status());
            assertEquals(kind == Simulator.Setup.Kind.CHATFLOW ? "{\"answer\":\"Let me ask. Note: fine\"}"
                    : "{\"note\":\"fine\"}", result("1").path("outputs").toString());
            assertEquals(2, started());
        }

        @ParameterizedTest(name = "{0}, {1}")
        @CsvSource({"WORKFLOW, streaming", "WORKFLOW, blocking", "CHATFLOW, blocking"})
        void failsItsRowOn1_16_0AndOnlyItsNameSendsItAgain(Simulator.Setup.Kind kind, String mode) throws IOException {
            var settings = asking(kind, "1.16.0");
            call(settings, typed("run", "--mode", mode));
            dify.ledger().each(job -> job.resume("fine"));

            var looked = call(settings, typed("run", "--mode", mode));

            assertEquals("failed=2", status(), looked.err());
            for (var again : List.of("run", "retry", "run")) {
                var call = call(settings, typed(again, "--mode", mode));
                assertEquals(2, started(), again);
                call.says("'retry ID'");
            }
            call(settings, typed("retry", "1", "--mode", mode));
            assertEquals(3, started());
            assertEquals("failed=1 paused=1", status());
        }

        @Test
        void isFoundByTheMessageOfAChatflowWhoseAnswerWasCut() throws IOException {
            var settings = asking(Simulator.Setup.Kind.CHATFLOW, "1.16.1");
            csv("id,query", "1,[drop-before] one");

            call(settings, typed("run", "--mode", "blocking", "--settle", "1s"));
            assertEquals("paused=1", status());
            dify.ledger().each(job -> job.resume("fine"));
            call(settings, typed("run", "--mode", "blocking"));

            assertEquals("succeeded=1", status());
            assertEquals("Let me ask. Note: fine", result("1").at("/outputs/answer").asText());
            assertEquals(1, started());
        }
    }

    @Nested
    class AModeratedChatflow {
        @ParameterizedTest(name = "{0}, {1}, {2}")
        @CsvSource({"1.14.2, streaming, preset", "1.16.0, streaming, preset", "1.16.1, streaming, preset",
            "1.14.2, blocking, preset", "1.16.1, blocking, preset", "1.14.2, streaming, replace",
            "1.16.1, streaming, replace", "1.16.1, blocking, replace"})
        void givesThePresetAnswerAlsoWhenItIsLookedUp(String version, String mode, String moderation)
                throws IOException {
            csv("id,query", "1,[" + moderation + "] one");
            var settings = start(Simulator.Setup.PLAIN.with(Simulator.Setup.Kind.CHATFLOW), "--dify", version,
                    "--columns", "id");
            long start = System.nanoTime();

            var call = call(settings, typed("run", "--mode", mode, "--timeout", "60s"));
            var seconds = Duration.ofNanos(System.nanoTime() - start).toSeconds();

            call.exits(0);
            assertTrue(seconds < 30, seconds + " s");
            var line = result("1");
            assertEquals(SimulatedMessage.PRESET, line.at("/outputs/answer").asText());
            assertEquals(mode.equals("streaming") && moderation.equals("replace"), line.has("workflow_status"));

            Files.writeString(file("results.jsonl"), "");
            call(settings, typed("run")).exits(0);
            assertEquals(SimulatedMessage.PRESET, result("1").at("/outputs/answer").asText());
            assertEquals(1, started());
        }
    }

    @Nested
    class AServerThatIsReplaced {
        @ParameterizedTest
        @ValueSource(strings = {"1.16.1", "1.19.0"})
        void aReplacedServerIsAskedForTheRunsOfItsPredecessor(String version) throws IOException {
            csv("id,text", "1,one", "2,[latency 3s] two", "3,[drop-before] three");
            var settings = start(Simulator.Setup.PLAIN, "--dify", "1.16.0");
            var first = call(settings, typed("run", "--mode", "blocking", "--timeout", "1s"));
            assertEquals("succeeded=2 unknown=1", status(), first.err());
            start(Simulator.Setup.PLAIN, "--dify", version);

            var second = call(settings, typed("run", "--mode", "blocking")).exits(0);
            assertEquals(3, started());
            assertEquals(0, Simulated.count(dify, "twice"));
            assertEquals(version.equals("1.19.0") ? 1 : 0, notes(second), second.err());
            assertEquals(0, notes(first), first.err());
        }

        private static long notes(Call call) {
            return call.err().lines().filter(line -> line.startsWith("Note: Dify 1.19.0")).count();
        }
    }
}
