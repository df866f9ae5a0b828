@echo off
rem Starts difyexec: in an archive with the Java that came with it, beside difyexec.jar with the Java on the PATH.
setlocal
rem The commands that the tool suggests begin with what was typed.
set "DIFYEXEC_COMMAND=%~0"
if exist "%~dp0..\runtime\bin\java.exe" goto archive
java -jar "%~dp0difyexec.jar" %*
exit /b %errorlevel%
:archive
rem .env is read from the folder of the archive, too
set "DIFYEXEC_HOME=%~dp0.."
"%~dp0..\runtime\bin\java.exe" "@%~dp0..\lib\java-options" -jar "%~dp0..\lib\difyexec.jar" %*
