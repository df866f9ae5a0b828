package difyexec;

import difyexec.Simulator.Setup;
import difyexec.Simulator.Setup.Kind;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static org.junit.jupiter.api.Assertions.*;

/// Whole batches with differences between versions of Dify: forms, moderation, and replaced servers.
final class VersionsTest extends WholeCommand {
    private SimulatedDify dify;
    private SimulatedServer server;

    /// Starts a server, or replaces the one before at its address. The new one has the runs of the old one.
    private Map<String, String> start(Setup setup, String... options) throws IOException {
        dify = new SimulatedDify(Simulator.of(options).behaviour(), setup,
                dify == null ? new SimulatedLedger() : dify.ledger());
        if (server == null) server = new Simulated(dify).server;
        else server.add(KEY, dify);
        return settingsFor(server.baseUrl());
    }

    /// An app that asks a human in each run.
    private Map<String, String> asking(Kind kind, String version) throws IOException {
        boolean isChat = kind == Kind.CHATFLOW;
        csv(isChat ? "id,query" : "id,text", "1,one", "2,two");
        var setup = new Setup("asking", Optional.of(SimulatedGraph.asking(isChat)), kind, _ -> true);
        return start(setup, "--dify", version, "--columns", isChat ? "id" : "id,text");
    }

    @Nested
    class APausedRow {
        @ParameterizedTest(name = "{0} of {1}, {2}")
        @CsvSource({"WORKFLOW, 1.14.2, blocking", "WORKFLOW, 1.16.1, streaming", "WORKFLOW, 1.16.1, blocking",
            "CHATFLOW, 1.14.2, streaming", "CHATFLOW, 1.14.2, blocking", "CHATFLOW, 1.16.0, streaming",
            "CHATFLOW, 1.16.1, streaming", "CHATFLOW, 1.16.1, blocking"})
        void succeedsInTheNextSessionAfterItsFormIsAnswered(Kind kind, String version, String mode) throws IOException {
            var settings = asking(kind, version);
            call(settings, typed("run", "--mode", mode)).exits(3);
            assertEquals("paused=2", status());
            call(settings, typed("run", "--mode", mode)); // it still waits, or waits again
            assertEquals("paused=2", status());

            dify.ledger().all().forEach(job -> job.resume("fine"));
            call(settings, typed("run", "--mode", mode)).exits(0);
            assertEquals("succeeded=2", status());
            var outputs = result("1").path("outputs");
            assertEquals(kind == Kind.CHATFLOW ? "Let me ask. Note: fine" : "1 fine", outputs.path("answer")
                    .asText(outputs.path("row_id").asText() + " " + outputs.path("text").asText()));
            assertEquals(2, dify.count("started"));
        }

        @ParameterizedTest(name = "{0}, {1}")
        @CsvSource({"WORKFLOW, streaming", "WORKFLOW, blocking", "CHATFLOW, blocking"})
        void failsOnDify1_16_0AfterItsFormIsAnsweredUntilRetriedById(Kind kind, String mode) throws IOException {
            var settings = asking(kind, "1.16.0");
            call(settings, typed("run", "--mode", mode));
            dify.ledger().all().forEach(job -> job.resume("fine"));

            call(settings, typed("run", "--mode", mode));

            assertEquals("failed=2", status());
            for (var again : List.of("run", "retry", "run")) {
                call(settings, typed(again, "--mode", mode)).says("retry ID");
                assertEquals(2, dify.count("started"), again);
            }
            call(settings, typed("retry", "1", "--mode", mode));
            assertEquals(3, dify.count("started"));
            assertEquals("failed=1 paused=1", status());
        }

        @Test
        void succeedsAfterItsFormIsAnsweredEvenIfItsResponseWasCut() throws IOException {
            var settings = asking(Kind.CHATFLOW, "1.16.1");
            csv("id,query", "1,[drop-before] one");

            call(settings, typed("run", "--mode", "blocking", "--settle", "10s"));
            assertEquals("paused=1", status());
            dify.ledger().all().forEach(job -> job.resume("fine"));
            call(settings, typed("run", "--mode", "blocking"));

            assertEquals("succeeded=1", status());
            assertEquals("Let me ask. Note: fine", result("1").at("/outputs/answer").asText());
            assertEquals(1, dify.count("started"));
        }
    }

    @Nested
    class AModeratedChatflow {
        @ParameterizedTest(name = "{0}, {1}, {2}")
        @CsvSource({"1.14.2, streaming, preset", "1.16.0, streaming, preset", "1.16.1, streaming, preset",
            "1.14.2, blocking, preset", "1.16.1, blocking, preset", "1.14.2, streaming, replace",
            "1.16.1, streaming, replace", "1.16.1, blocking, replace"})
        void yieldsThePresetAnswerEvenAfterALookUp(String version, String mode, String moderation) throws IOException {
            csv("id,query", "1,[" + moderation + "] one");
            var settings = start(Setup.PLAIN.with(Kind.CHATFLOW), "--dify", version, "--columns", "id");

            call(settings, typed("run", "--mode", mode, "--timeout", "10m")).exits(0); // longer than this test may take

            var line = result("1");
            assertEquals(SimulatedMessage.PRESET, line.at("/outputs/answer").asText());
            assertEquals(mode.equals("streaming") && moderation.equals("replace"), line.has("workflow_status"));

            Files.writeString(file("results.jsonl"), "");
            call(settings, typed("run")).exits(0);
            assertEquals(SimulatedMessage.PRESET, result("1").at("/outputs/answer").asText());
            assertEquals(1, dify.count("started"));
        }
    }

    @Nested
    class AServerUpgrade {
        @ParameterizedTest
        @ValueSource(strings = {"1.16.1", "1.19.0"})
        void causesNoSecondRunOfRowsStartedBeforeIt(String version) throws IOException {
            csv("id,text", "1,one", "2,[latency 3s] two", "3,[drop-before] three");
            var settings = start(Setup.PLAIN, "--dify", "1.16.0");
            var first = call(settings, typed("run", "--mode", "blocking", "--timeout", "1s"));
            assertEquals("succeeded=2 unknown=1", status());
            start(Setup.PLAIN, "--dify", version);

            var second = call(settings, typed("run", "--mode", "blocking")).exits(0);
            assertEquals(3, dify.count("started"));
            assertEquals(0, dify.count("twice"));
            first.omits("Note: Dify 1.19.0");
            assertEquals(version.equals("1.19.0") ? 1 : 0, second.notes().stream()
                    .filter(note -> note.startsWith("Note: Dify 1.19.0")).count());
        }
    }
}
